"""Files written whole or not at all, and JSON read back; the standard library alone, so that the runtime has them."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from potstill.errors import ArtifactError


def cache_directory() -> Path:
    """Return where computed things are kept: `$POTSTILL_CACHE`, else `potstill` in the user's cache directory."""
    if named := os.environ.get("POTSTILL_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "potstill"


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Tell what the system refuses while `path` is written: a full disk, a place that is read-only, a broken device.

    Raises:
        ArtifactError: In place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{path} can't be written: {error.strerror or error}\n"
            f"  what to do: make room, or let it be written elsewhere; what stood there before is as it was"
        ) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers see the old file or the new one.

    What `write` returns is not looked at, so that `lambda file: file.write_text(...)` will do. Content and name have
    reached the disk when this returns.

    Raises:
        ArtifactError: The system refuses. The old file stands, the temporary one is gone.
    """
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            sync(temporary)
            temporary.chmod(0o644)  # mkstemp's files are private; these are meant to be read
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or a directory's names, are on the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no directories
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows as CSV, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: The file is missing, or holds no JSON object.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"expected the file {path}, found none\n  what to do: check the path") from None
    except OSError as error:
        raise ArtifactError(f"{path} is not readable ({error.strerror})\n  what to do: check the path") from None
    return parse_json(content, path)


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """Read the JSON object that was found at `path`.

    Raises:
        ArtifactError: It is none.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # the latter for a thousand brackets
        raise ArtifactError(f"{path} is not readable as JSON ({error})\n  what to do: make it again") from None
    if not isinstance(value, dict):
        raise ArtifactError(
            f"{path}: expected a JSON object, found {type(value).__name__}\n  what to do: make it again"
        )
    return value
