"""The cache: results that took long to compute, under a key of everything that decides them.

An entry is compared with its checksum before it is parsed; a damaged one counts as missing, and is made anew. Arrays
are one file each: a digest, then safetensors. Directories have a `checksums.json`.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock
from numpy.typing import NDArray
from safetensors import numpy as safetensors

from potstill.errors import ArtifactError
from potstill.store.atomic import os_errors, write_atomically, write_directory_atomically
from potstill.store.checksums import CHECKSUMS_FILE, digest, verify, write_checksums

Arrays = dict[str, NDArray[Any]]

_RANDOM_PART: Final = "?" * 8
"""What `tempfile` adds to a name."""

_verified: set[Path] = set()
"""Directories that this process has compared with their checksums: once is enough, gigabytes take seconds."""


def cache_directory() -> Path:
    """Return where the cache is: `$POTSTILL_CACHE`, else `potstill` in the user's cache directory."""
    if named := os.environ.get("POTSTILL_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "potstill"


def read_arrays(path: Path) -> Arrays | None:
    """Read what `write_arrays` wrote; None where the file is missing or is not what was written, to the last bit."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, content = content[: len(_checksum(b""))], content[len(_checksum(b"")) :]
    return safetensors.load(content) if checksum == _checksum(content) else None


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays for `read_arrays`, atomically."""
    content = safetensors.save(arrays)
    write_atomically(path, lambda temporary: temporary.write_bytes(_checksum(content) + content))


def _checksum(content: bytes) -> bytes:
    return bytes.fromhex(digest([content]))


def cached_arrays(kind: str, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of a kind under a key; `make` computes them where they are missing or damaged."""
    path = cache_directory() / kind / key
    if (arrays := read_arrays(path)) is None:
        arrays = make()
        write_arrays(path, arrays)
    return arrays


def cached_directory(kind: str, key: str, fill: Callable[[Path], object]) -> Path:
    """Return the directory of a kind under a key; `fill` writes its files where it is missing or damaged.

    Of several processes that miss it, one makes it and the others wait.
    """
    path = cache_directory() / kind / key

    def make(directory: Path) -> None:
        fill(directory)
        write_checksums(directory)

    if not _is_intact(path):  # what is intact is read without a lock: the cache may be read-only
        with lock(path):
            if not _is_intact(path):
                shutil.rmtree(path, ignore_errors=True)  # what was found damaged
                write_directory_atomically(path, make)
    return path


def _is_intact(directory: Path) -> bool:
    if directory in _verified and (directory / CHECKSUMS_FILE).is_file():
        return True
    try:
        verify(directory)
    except ArtifactError:
        return False
    _verified.add(directory)
    return True


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep other processes from making or changing `path`, a file or directory of the cache, meanwhile.

    What a killed process left of it is removed first.

    Raises:
        ArtifactError: The system refuses.
    """
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path.with_name(f".{path.name}.lock"))
        held.acquire()
    try:
        for abandoned in path.parent.glob(f".{glob.escape(path.name)}.{_RANDOM_PART}"):
            if abandoned.is_dir():
                shutil.rmtree(abandoned, ignore_errors=True)
            else:
                abandoned.unlink(missing_ok=True)
        yield
    finally:
        held.release()
