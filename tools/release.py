"""Build the wheel and the sdist, and try them as a user would: in an empty environment, with each extra.

    make release-check      # python -m tools.release; some minutes per extra that trains, and a package index

What passes lies in dist/ afterwards, with an SBOM of what the container installs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DEPLOY: Final = ROOT / "deploy"

_PREDICT: Final = """
potstill predict "$MODEL" --text "what is on my calendar" | tee answer
grep -q calendar answer
"""
_NO_TORCH: Final = "if python -c 'import torch' 2>error; then echo 'torch is installed'; exit 1; fi\n"
_TRAIN: Final = """
potstill train tickets.csv --embedding-size 4 --hidden-size 4 --vocab-size 300 --epochs 1 --seeds 0 --out model {}
potstill predict model --text "the cat"
"""
_SERVE: Final = """
potstill serve "$MODEL" --port 0 2>log & trap "kill $!" EXIT
python - <<'END'
import json, re, time, urllib.request
while not (address := re.search(r"http://[0-9.]+:[0-9]+", open("log").read())): time.sleep(0.1)
body = json.dumps({"text": "what is on my calendar"}).encode()
request = urllib.request.Request(address[0] + "/v1/predict", body, {"Content-Type": "application/json"})
answer = json.load(urllib.request.urlopen(request))
print(answer["answers"][0]["predictions"][0]["label"])
assert "calendar" in str(answer)
END
"""
CHECKS: Final = {
    "": f"""
potstill --version
potstill --help | grep -q 'potstill predict'
{_PREDICT}
{_NO_TORCH}
potstill doctor
if potstill run tickets.csv 2>error; then exit 1; fi
grep -F "[train]'" error
""",
    "files": f"""
python - <<'END'
import openpyxl
book = openpyxl.Workbook()
for text in ("text", "what is on my calendar"): book.active.append([text])
book.save("texts.xlsx")
END
potstill predict "$MODEL" texts.xlsx
{_NO_TORCH}
""",
    "serve": _SERVE + _NO_TORCH,
    "train": _TRAIN.format(""),
    "search": """
potstill search tickets.csv --teacher teacher.csv --trials 1 --embedding-size 4 --hidden-size 4 --vocab-size 300 \\
  --epochs 1 --seeds 0 --out search
""",
    "tensorboard": _TRAIN.format("--trackers tensorboard") + "find model -name 'events.*' | grep .\n",
    "mlflow": _TRAIN.format("--trackers mlflow")
    + """
python - <<'END'
from mlflow import MlflowClient
client = MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("potstill").experiment_id])
print(run.data.metrics["train_loss"])
END
""",
    "wandb": _TRAIN.format("--trackers wandb") + "find . -name '*.wandb' | grep .\n",
    "benchmarks": "python -c 'import atheris, fasttext, joblib, locust, psutil, sklearn, uvicorn'",
    "dev": """
ruff --version; mypy --version; pytest --version
python -c 'import hatchling, httpx, hypothesis, peft, playwright, schemathesis, websockets, xdist'
""",
    "docs": "mkdocs --version; jupyter nbconvert --version",
    "release": "python -m build --version; pip-compile --version; cyclonedx-py --version",
}
"""What each extra, or none of them, has to do, in a shell that ends at the first command that fails."""


class Environment:
    """An empty virtual environment."""

    def __init__(self, directory: Path) -> None:
        venv.create(directory, with_pip=True)
        self.directory = directory
        self.python = directory / "bin" / "python"

    def run(self, *module: str | Path) -> None:
        """Run a module of Python."""
        subprocess.run([self.python, "-m", *module], check=True)

    def install(self, *arguments: str | Path) -> None:
        """Install packages."""
        self.run("pip", "install", "--quiet", "--no-compile", *arguments)

    def shell(self, script: str, work: Path) -> str:
        """Run a script with the environment's programs; returns what it printed."""
        place = {"PATH": f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(work)}
        settings = {"MODEL": str(ROOT / "models" / "clinc150-assistant"), "WANDB_MODE": "offline"}
        settings["MLFLOW_TRACKING_URI"] = f"sqlite:///{work / 'mlflow.db'}"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = ["bash", "-e", "-o", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=work, env=kept | place | settings, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"FAILED with status {done.returncode}:\n{script}\n{done.stdout}\n{done.stderr}")
        return done.stdout


def build(environment: Environment, out: Path) -> Path:
    """Build the sdist and, from it, the wheel; returns the wheel."""
    environment.run("build", "--outdir", out, ROOT)
    (wheel,) = out.glob("*.whl")
    return wheel


def try_extra(extra: str, wheel: Path, work: Path) -> None:
    """Install the wheel with an extra into an empty environment, and let it work."""
    started = time.monotonic()
    environment = Environment(work / "environment")
    environment.install("--constraint", ROOT / "constraints.txt", f"{wheel}[{extra}]" if extra else wheel)
    rows = [f"the {noun} is {word},{label}" for noun in ("cat", "dog", "mat", "card", "bird", "pen")
            for word, label in (("good", "yes"), ("fine", "yes"), ("bad", "no"), ("sad", "no"))]  # fmt: skip
    (work / "tickets.csv").write_text("\n".join(["text,label", *rows]))
    shares = [row.replace(",yes", ",0.1,0.9").replace(",no", ",0.9,0.1") for row in rows]
    (work / "teacher.csv").write_text("\n".join(["text,no,yes", *shares]))
    _report(f"potstill[{extra}]" if extra else "potstill", environment.shell(CHECKS[extra], work), started)


def try_locks(tools: Environment, wheel: Path, work: Path) -> None:
    """Do what deploy/Containerfile does, without a container, and list what it installs."""
    started = time.monotonic()
    builder = Environment(work / "builder")
    builder.install("--require-hashes", "--requirement", DEPLOY / "build.lock")
    builder.run("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", work / "wheel", ROOT)
    environment = Environment(work / "environment")
    environment.install("--require-hashes", "--requirement", DEPLOY / "requirements.lock")
    environment.install("--no-deps", *(work / "wheel").glob("*.whl"))
    environment.run("pip", "check")
    _report("deploy/*.lock", environment.shell(CHECKS["serve"], work), started)
    listing = ("environment", "--output-reproducible", "--output-file", wheel.with_suffix(".sbom.json"))
    tools.run("cyclonedx_py", *listing, environment.python)


def try_container() -> None:
    """Build the container, where a program that builds containers works."""
    programs = [name for name in ("podman", "docker") if shutil.which(name)]
    working = [name for name in programs if not subprocess.run([name, "info"], capture_output=True).returncode]
    if not working:
        _say("container: NOT built, since neither podman nor docker works here")
        return
    subprocess.run([working[0], "build", "--tag", "potstill", "--file", DEPLOY / "Containerfile", ROOT], check=True)
    _say(f"container: built by {working[0]}")


def _report(name: str, printed: str, started: float) -> None:
    _say("\n    ".join([f"{name}: passed in {time.monotonic() - started:.0f} s", *printed.splitlines()]))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Build, try everything, keep what was built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = ["", *project["optional-dependencies"]]
    parser.add_argument("--extras", nargs="*", choices=known, default=known, help="default: none (''), and each")
    extras = parser.parse_args().extras
    with tempfile.TemporaryDirectory(prefix="release-") as directory:
        place = Path(directory)
        tools = Environment(place / "tools")
        tools.install("build", "cyclonedx-bom")
        wheel = build(tools, place / "dist")
        for extra in extras:
            with tempfile.TemporaryDirectory(dir=place) as work:
                try_extra(extra, wheel, Path(work))
        with tempfile.TemporaryDirectory(dir=place) as work:
            try_locks(tools, wheel, Path(work))
        try_container()
        (ROOT / "dist").mkdir(exist_ok=True)
        for file in wheel.parent.iterdir():
            shutil.copy(file, ROOT / "dist")
    _say(f"potstill {project['version']}: all passed; see dist/")


if __name__ == "__main__":
    main()
