"""A directory with the answers to several files. A file of answers that has its name is complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from potstill.errors import ArtifactError
from potstill.predict.output import AnswerFormat
from potstill.store.atomic import new_directory, read_json, write_json

TASK_FILE: Final = "predict.json"
"""Says what a directory of answers holds: the task, and the bytes of each file of texts by the name of its answers."""


def answer_files(directory: Path, files: Sequence[Path], task: str, suffix: AnswerFormat) -> list[tuple[Path, Path]]:
    """Begin a directory of answers, or go on with one, also with more files.

    Args:
        directory: Where the answers go.
        files: Files of texts.
        task: What decides the answers beside these.
        suffix: What the names of files of answers end in.

    Returns:
        The files that are not answered yet, each with where its answers go.

    Raises:
        ArtifactError: It holds anything else, or answers to another task or to files that have changed; or two files
            would have one name.
    """
    named: dict[str, Path] = {}
    for file in files:
        name = file.name if file.suffix.lower() == f".{suffix}" else f"{file.name}.{suffix}"
        if (other := named.setdefault(name, file)) is not file:
            raise ArtifactError(
                f"{other} and {file}: expected files of different names, since the answers go to {name}\n"
                "  what to do: answer them in two calls, into two directories"
            )
    sizes = {name: file.stat().st_size for name, file in named.items()}
    note = directory / TASK_FILE
    known: dict[str, Any] = read_json(note) if note.exists() else {"task": task, "files": {}}
    if known.get("task") != task:
        raise _refused(note, f"the task {task!r}", known.get("task"))
    before: dict[str, int] = known["files"]
    for name, size in sizes.items():
        if before.get(name, size) != size:
            raise _refused(note, f"{named[name]} to have {before[name]:,} bytes, as before", f"{size:,}")
    if not note.exists():
        new_directory(directory)
    if not sizes.keys() <= before.keys() or not note.exists():
        write_json(note, {"task": task, "files": before | sizes})
    return [(file, directory / name) for name, file in named.items() if not (directory / name).exists()]


def _refused(note: Path, expected: str, found: object) -> ArtifactError:
    return ArtifactError(f"{note}: expected {expected}, found {found!r}\n  what to do: name another --out")
