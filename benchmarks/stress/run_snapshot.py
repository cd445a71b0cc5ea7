"""What a run leaves, without what tells of times: two runs that did the same left the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from potstill.experiment.saved import model_directories
from potstill.store.checksums import CHECKSUMS_FILE, verify

TIMES = {"seconds", "tokens_per_second", "texts_per_second", "latency_ms", "train_seconds"}
UNCOMPARED = {"potstill.lock", CHECKSUMS_FILE, "report.md", "report.html"}
"""Files that have to be there, whatever they hold: the process's number, and what tells of times."""


def contents(run: Path) -> dict[str, Any]:
    """Return what has to be equal of every file below `run`, by its path; of some, that it is there."""
    return {str(path.relative_to(run)): _content(path) for path in sorted(run.rglob("*")) if path.is_file()}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Name the files that are not what they should be, or missing, or too many."""
    return [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]


def verify_all(run: Path) -> None:
    """Compare the run and every model in it with their checksums.

    Raises:
        ArtifactError: A `checksums.json` is missing, or a file differs.
    """
    for directory in (run, *model_directories(run)):
        verify(directory)


def without_times(value: Any) -> Any:
    """Leave out, however deep, what tells of time; the order of names counts."""
    if isinstance(value, dict):
        return [(name, without_times(inner)) for name, inner in value.items() if name not in TIMES]
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def _content(path: Path) -> Any:
    if path.name in UNCOMPARED:
        return "there"
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return without_times(json.loads(path.read_text(encoding="utf-8"))) if path.suffix == ".json" else path.read_bytes()
