"""A directory with the answers to several files. A file of answers that has its name is complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from potstill.errors import ArtifactError
from potstill.predict.output import AnswerFormat
from potstill.store.atomic import new_directory, read_json, write_json
from potstill.store.checksums import file_digest

TASK_FILE: Final = "predict.json"
"""Says what a directory of answers holds: the task, and the digest of each file of texts by the name of its answers."""


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
    digests = {name: file_digest(file) if file.is_file() else "" for name, file in named.items()}  # "": of a pipe
    note = directory / TASK_FILE
    known: dict[str, Any] = read_json(note) if note.exists() else {"task": task, "files": {}}
    if known.get("task") != task:
        raise _refused(f"{directory} holds answers to another task: {known.get('task')}; now it is {task}")
    before: dict[str, str] = known["files"]
    for name, found in digests.items():
        if before.get(name, found) != found:
            raise _refused(f"{directory / name}: it is for another file than {named[name]}, or that one has changed")
    if not note.exists():
        new_directory(directory)
    if not digests.keys() <= before.keys() or not note.exists():
        write_json(note, {"task": task, "files": before | digests})
    return [(file, directory / name) for name, file in named.items() if not (directory / name).exists()]


def _refused(problem: str) -> ArtifactError:
    return ArtifactError(f"{problem}\n  what to do: name another --out")
