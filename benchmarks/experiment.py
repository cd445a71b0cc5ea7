"""Run a shipped configuration and keep its result as `benchmarks/results/NAME.json`.

    python benchmarks/experiment.py cola
    python benchmarks/experiment.py reference --backbone smollm2-135m

What follows the name goes to `potstill run` unchanged; with `--out` an interrupted run is resumed. The run
directory, with models, plots and the full report, stays under `runs/`; the committed result holds the aggregates over
seeds and what is needed to run it again.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from common import POTSTILL, RESULTS, ROOT
from potstill.store.atomic import read_json, write_json

ROLES = ("teacher", "distilled", "baseline")
PER_SEED = ("seed", "validation_mcc", "best_epoch", "train_seconds")
COPIED = ("unlabelled", "teacher_seed", "ensemble", "linear", "paired_test", "verdicts", "config")


def main() -> None:
    """Run a configuration and write its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", help="of a file in configs/, without its suffix")
    parser.add_argument("--out", type=Path, help="run directory")
    known, flags = parser.parse_known_args()
    name = known.name
    directory = known.out or Path("runs") / f"{name}-benchmark-{time.strftime('%Y%m%d-%H%M%S')}"
    command = ["run", "--config", f"configs/{name}.yaml", *flags, "--out", str(directory)]
    if status := subprocess.run([*POTSTILL, *command], cwd=ROOT, check=False).returncode:  # noqa: S603 — our program
        sys.exit(status)  # it has said why
    summary = read_json(ROOT / directory / "summary.json")
    models = {role: [model for model in summary["models"] if model["role"] == role] for role in ROLES}
    result = {
        "command": shlex.join(["python", "benchmarks/experiment.py", name, *flags]),
        "environment": summary["environment"],
        "data": summary["data"],
        **summary["aggregate"],
        **{field: {role: [model[field] for model in models[role]] for role in ROLES} for field in PER_SEED},
        **{field: summary[field] for field in COPIED},
        "mcnemar": summary["comparisons"],
    }
    write_json(RESULTS / f"{name}.json", result)
    sys.stderr.write(f"written: benchmarks/results/{name}.json\n")


if __name__ == "__main__":
    main()
