"""Run a shipped configuration and keep its result as `benchmarks/results/NAME.json`.

    python benchmarks/experiment.py cola
    python benchmarks/experiment.py reference --backbone smollm2-135m

What follows the name goes to `potstill run` as it stands; with `--out` an interrupted run is resumed. The run
directory, with models, plots and the full report, stays under `runs/`; the committed result holds the aggregates over
seeds and what is needed to run it again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def main(name: str, *arguments: str) -> None:
    """Run the configuration `name` and write its result."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # all but --out is for `potstill run`
    parser.add_argument("--out", default=Path("runs") / f"{name}-benchmark-{time.strftime('%Y%m%d-%H%M%S')}")
    known, flags = parser.parse_known_args(arguments)
    directory = Path(known.out)
    command = ["run", "--config", f"configs/{name}.yaml", *flags, "--out", str(directory)]
    program = [sys.executable, "-c", "from potstill.cli import main; main()"]
    if status := subprocess.run([*program, *command], cwd=ROOT, check=False).returncode:  # noqa: S603 — our own program
        sys.exit(status)  # it has said why
    summary = json.loads((ROOT / directory / "summary.json").read_text(encoding="utf-8"))
    roles = ("teacher", "distilled", "baseline")
    models = {role: [model for model in summary["models"] if model["role"] == role] for role in roles}

    def per_seed(field: str) -> dict[str, list[float]]:
        return {role: [model[field] for model in models[role]] for role in roles}

    result = {
        "command": shlex.join(["python", "benchmarks/experiment.py", name, *flags]),
        "environment": summary["environment"],
        "data": summary["data"],
        **summary["aggregate"],
        **{field: per_seed(field) for field in ("seed", "selection_mcc", "best_epoch", "train_seconds")},
        "transfer": summary["transfer"],
        "teacher_seed": summary["teacher_seed"],
        "ensemble": summary["ensemble"],
        "paired_test": summary["paired_test"],
        "mcnemar": summary["comparisons"],
        "verdicts": summary["verdicts"],
        "config": summary["config"],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stderr.write(f"written: {target.relative_to(ROOT)}\n")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
