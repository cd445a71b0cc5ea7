"""What is released: the wheel's content, and that it predicts with no other packages than it asks for.

`make release-check` builds and installs for real, with each extra.
"""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.release import CHECKS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", place]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = place.iterdir()
    return built


def needed(extra=""):
    """The packages that the project and an extra need, with all that these need, by name."""
    queue = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get(extra, [])]
    found = {}
    for requirement in map(Requirement, queue):
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[name] = metadata.distribution(name)
            queue += found[name].requires or []
    return found


def test_the_wheel_has_what_is_read_at_run_time_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "potstill").rglob("*.*")}
    information = f"potstill-{PROJECT['version']}.dist-info"
    expected = {name for name in source if "__pycache__" not in name}
    assert {name for name in names if not name.startswith(information)} == expected
    assert {"potstill/py.typed", "potstill/serve/page.html", "potstill/export/web/check.js"} <= names
    assert f"{information}/licenses/LICENSE" in names


@pytest.mark.parametrize("extra", ["", "files", "serve"])
def test_prediction_needs_no_torch_and_nothing_that_the_wheel_does_not_ask_for(wheel, tmp_path, extra):
    """In a directory of its own, with the wheel and the packages that it asks for."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    packages = needed(extra)
    assert not {"torch", "transformers", "scikit-learn"} & packages.keys()
    for package in packages.values():
        for top in {Path(file).parts[0] for file in package.files if not str(file).startswith("..")}:
            if not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(package.locate_file(top))
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from potstill.cli import main; main(sys.argv[1:])"

    def potstill(*arguments):
        command = [sys.executable, "-I", "-S", "-c", program, tmp_path, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    done = potstill("predict", ROOT / "models" / "clinc150-assistant", "--text", "what is on my calendar")
    assert (done.returncode, json.loads(done.stdout)["label"]) == (0, "calendar"), done
    done = potstill("run", "texts.csv")
    assert (done.returncode, done.stderr.count("\n")) == (1, 2)
    assert "pip install '.[train]' in a checkout of Potstill" in done.stderr
    done = potstill("serve", tmp_path / "missing")
    assert ("[serve]" in done.stderr) is (extra != "serve"), done


def test_every_extra_is_tried_before_a_release():
    assert {"", *PROJECT["optional-dependencies"]} == {*CHECKS}


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_locks_name_versions_and_digests_alone(name):
    lines = (ROOT / "deploy" / name).read_text(encoding="utf-8").splitlines()
    pattern = re.compile(r"[a-z0-9-]+==[\w.]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in lines if not pattern.fullmatch(line)] == []


def test_the_lock_has_all_that_the_container_installs():
    text = (ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, flags=re.MULTILINE))
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["serve"]]
    missing = [one for one in map(Requirement, wanted) if locked.get(canonicalize_name(one.name)) not in one.specifier]
    assert missing == []
    assert "torch" not in locked


def test_changes_have_the_form_of_keep_a_changelog():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *releases = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert first == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", one) for one in releases)
    assert not releases or releases[0].startswith(f"[{PROJECT['version']}]")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {*re.findall(r"^### (.*)$", text, flags=re.MULTILINE)} <= kinds


def test_the_citation_has_what_its_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["title"].lower(), citation["license"]) == (PROJECT["name"], PROJECT["license"])
    assert citation["keywords"] == PROJECT["keywords"]
    assert "version" not in citation  # it has one place, pyproject.toml
