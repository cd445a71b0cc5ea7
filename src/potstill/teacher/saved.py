"""A saved teacher of any kind, opened again."""

from __future__ import annotations

from pathlib import Path

from potstill.config import RuntimeConfig
from potstill.errors import ArtifactError
from potstill.predict.directory import TEACHER_MANIFEST
from potstill.store.atomic import parse_json
from potstill.store.checksums import read, recover
from potstill.teacher.base import Teacher
from potstill.teacher.registry import TEACHERS, teacher_class


def open_teacher(directory: Path, runtime: RuntimeConfig) -> Teacher:
    """Open a saved teacher: `kind` in its `teacher.json` says of which kind; without that file it is an adapter's.

    Raises:
        ArtifactError: It is missing or damaged, or of a kind that is not registered.
        SourceError: A backbone can't be found or reached.
    """
    recover(directory)
    path, kind = directory / TEACHER_MANIFEST, "transformer"
    if path.is_file():
        kind = parse_json(read(directory, [path.name])[path.name], path).get("kind", kind)
    if kind not in TEACHERS:
        raise ArtifactError(
            f"{path}: expected a teacher of a kind among {', '.join(TEACHERS)}, found {kind!r}\n"
            f"  what to do: register that kind in potstill.teacher.registry first"
        )
    return teacher_class(kind).load(directory, runtime)
