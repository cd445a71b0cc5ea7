"""Files and directories that are written whole or not at all, with the standard library alone."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from potstill.errors import ArtifactError

MAX_JSON: Final = 1 << 26
"""Largest JSON file that is read, in bytes: twice the largest tokenizers, and a sparse file may claim any size."""


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while `path` is written into a clear message: a full disk, a read-only place, a broken device.

    Raises:
        ArtifactError: In place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{path} can't be written: {error.strerror or error}\n"
            f"  what to do: make room, or name another place; what was there before is unchanged"
        ) from error


def sync(path: Path) -> None:
    """Wait until a file, or a directory's names, are on the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no directories
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers see the old file or the new one.

    Content and name have reached the disk when this returns.

    Raises:
        ArtifactError: The system refuses. The old file is unchanged, the temporary one is removed.
    """
    with os_errors(path):
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


def write_directory_atomically(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` fill a temporary directory beside `path`, then rename it: readers see all of it or nothing.

    Content and name have reached the disk when this returns.

    Raises:
        ArtifactError: The system refuses, or another process made `path` meanwhile.
    """
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            fill(temporary)
            temporary.chmod(0o755)  # mkdtemp's are private; these are meant to be read
            for file in (*temporary.rglob("*"), temporary):
                sync(file)
            if path.exists():
                raise ArtifactError(f"{path} was made by another process meanwhile\n  what to do: name another --out")
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(path.parent)


def new_directory(out: Path) -> Path:
    """Make the directory that a user named.

    Raises:
        ArtifactError: It holds something already, or can't be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(
            f"{out} exists and is not empty; nothing is ever overwritten\n  what to do: name another directory"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{out} can't be made: {error}\n  what to do: name another directory") from None
    return out


def ensure_replaceable(path: Path) -> None:
    """Check early that `write_directory_atomically` will be able to make `path`; an empty directory is removed.

    Raises:
        ArtifactError: There is something, or an empty directory that has to stay: the working directory, a volume.
    """
    new_directory(path)
    try:
        if path.samefile("."):  # most systems would remove it, and no relative path leads anywhere then
            raise OSError(errno.EBUSY, "it is the working directory")
        path.rmdir()
    except OSError as error:
        raise ArtifactError(
            f"{path} can't be replaced by a complete directory: {error.strerror}\n"
            f"  what to do: name a new directory with --out, such as {path / 'model'}"
        ) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content`, atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


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
        ArtifactError: The file is missing, too large, or holds no JSON object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON + 1)
    except OSError as error:
        raise ArtifactError(f"{path} is not readable ({error.strerror})\n  what to do: check the path") from None
    if len(content) > MAX_JSON:
        raise ArtifactError(
            f"{path} is too large: expected at most {MAX_JSON} bytes, found more\n  what to do: make it again"
        )
    return parse_json(content, path)


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """Parse the JSON object that was found at `path`.

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
