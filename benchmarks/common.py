"""What all benchmarks share: flags, runs that alternate, ratios with their spread, targets, results as JSON.

Potstill and what it is compared with run alternately, so that a machine that is slower for a while is slower for all of
them. A ratio compares runs of the same round; reported are its median, minimum and maximum over the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.evaluation import Spread
from potstill.experiment.run_directory import describe_environment
from potstill.store.atomic import read_json, write_json

Run = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
OURS = "ours"
POTSTILL = (sys.executable, "-c", "from potstill.cli import main; main()")
"""The command line, in a process of its own."""


def arguments(
    description: str | None, name: str | None = None, *, rounds: bool = True, seed: bool = True
) -> argparse.ArgumentParser:
    """Make a parser with the flags that most benchmarks have; `name` is that of the result file, None: the script's."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds:
        parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="decides everything random")
    default = RESULTS / f"{name or Path(sys.argv[0]).stem}.json"
    parser.add_argument("--out", type=Path, default=default, help="result file")
    return parser


def alternate(systems: Mapping[str, Callable[[int], Run]], rounds: int) -> list[Run]:
    """Run all systems once a round, in reversed order in every second round.

    A system takes the number of the round and returns what it measured, to which `name` and `round` are added.
    """
    runs: list[Run] = []
    for number in range(rounds):
        for name in systems if number % 2 == 0 else reversed(systems):
            gc.collect()
            runs.append({"name": name, "round": number, **systems[name](number)})
            sys.stderr.write(f"{runs[-1]}\n")
    return runs


def ratios(
    runs: Iterable[Run], field: str, *, inverse: bool = False, ours: str = OURS, by: Sequence[str] = ("round",)
) -> dict[str, dict[str, float]]:
    """Return as `vs_NAME` the spread of the ratio between `field` of our runs and that of every other system.

    `inverse` divides the other's value by ours, as for times. Only runs that agree in the fields `by` are compared.
    """
    table: dict[tuple[Any, ...], dict[str, float]] = {}
    for run in runs:
        table.setdefault(tuple(run[key] for key in by), {})[run["name"]] = run[field]
    found: dict[str, list[float]] = {}
    for values in table.values():
        own = values.pop(ours)
        for name, value in values.items():
            found.setdefault(f"vs_{name}", []).append(value / own if inverse else own / value)
    return {name: spread(values) for name, values in found.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, sample standard deviation (0 for one value) and the values, in the order of their seeds."""
    return vars(Spread.of(values))


def target(what: str, wanted: float, found: float, relation: str = "exactly") -> dict[str, Any]:
    """Compare a result with its target; `relation` is `exactly`, `at least` or `at most`."""
    met = {"exactly": found == wanted, "at least": found >= wanted, "at most": found <= wanted}[relation]
    words = what if relation == "exactly" else f"{what}, {relation}"
    return {"what": words, "wanted": wanted, "found": found, "met": bool(met)}


def run_json(command: Sequence[object], **environment: str) -> Run:
    """Run a command in a process of its own and return the JSON that its last line holds."""
    words, variables = list(map(str, command)), os.environ | environment
    result = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        raise RuntimeError(f"{shlex.join(words)}:\n{result.stderr}")
    run: Run = json.loads(result.stdout.splitlines()[-1])
    return run


def run_script(*flags: str) -> Run:
    """Run this script with `flags` in a process of its own, with one thread; return the JSON that it prints."""
    return run_json([sys.executable, sys.argv[0], *flags], OMP_NUM_THREADS="1")


def known_runs(path: Path) -> dict[str, Run]:
    """Return the runs of an earlier result by name; none where there is no result yet."""
    return {run["name"]: run for run in read_json(path)["runs"]} if path.is_file() else {}


def write_result(path: Path, runs: Iterable[Run], **content: Any) -> None:
    """Write a result: the command, the machine, every run, and what follows from them."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else Path("benchmarks", script.name)
    command = shlex.join(["python", name.as_posix(), *sys.argv[1:]])
    write_json(path, {"command": command, "environment": describe_environment(), "runs": list(runs), **content})
    sys.stderr.write(f"written: {path}\n")
