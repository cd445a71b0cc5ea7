"""What Potstill keeps on disk beyond single files: digests, the cache, directories."""

from __future__ import annotations

import errno
import glob
import hashlib
import itertools
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import numpy as safetensors

from potstill.errors import ArtifactError
from potstill.files import sync, write_atomically, written

Arrays = dict[str, NDArray[Any]]

RUNS: Final = Path("runs")
"""Where commands write when they are not told."""

DIGEST_BYTES = 16
"""Length of a content key: 128 bits, so that two contents never meet by chance."""

_DRAWN = "?" * 8
"""What `mkdtemp` adds to a name."""


def digest(parts: Iterable[bytes | str]) -> str:
    """Return a hexadecimal content key; every part's length goes in, so that parts can't run into each other."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        # A text that came through JSON can hold half of a surrogate pair, which plain UTF-8 refuses.
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_directory_atomically(path: Path, fill: Callable[[Path], object], *, durable: bool = False) -> bool:
    """Let `fill` fill a temporary directory beside `path`, then rename it: readers see all of it or nothing.

    Args:
        path: The directory.
        fill: Writes the files into the directory that it is given.
        durable: Wait until all of it is on the disk. A cache need not: what a crash of the machine left incomplete
            there is computed again.

    Returns:
        Whether it stands at `path` now. Where something is there already, another process was faster and that stays.

    Raises:
        ArtifactError: The system refuses.
    """
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            fill(temporary)
            temporary.chmod(0o755)  # mkdtemp's are private; these are meant to be read
            if durable:
                for written_file in (*temporary.rglob("*"), temporary):
                    sync(written_file)
            if path.exists():
                return False
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if durable:
            sync(path.parent)
    return True


def write_new_directory(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` fill a directory that nothing stands in the place of, all of it or nothing, and wait for the disk.

    Raises:
        ArtifactError: The system refuses, or another process made `path` meanwhile.
    """
    if not write_directory_atomically(path, fill, durable=True):
        raise ArtifactError(f"{path} was made by another process meanwhile\n  what to do: name another with --out")


def vacate(path: Path) -> None:
    """Make sure that a directory can be put at `path` as a whole.

    Raises:
        ArtifactError: Something stands there, or it is empty but has to stay: it is worked in, or a disk of its own.
    """
    new_directory(path)
    try:
        if path.samefile("."):  # most systems let it go, and no relative path leads anywhere then
            raise OSError(errno.EBUSY, "it is the working directory")
        path.rmdir()
    except OSError as error:
        raise ArtifactError(
            f"{path} can't be replaced by a complete directory: {error.strerror}\n"
            f"  what to do: name a new directory with --out, such as {path / 'model'}"
        ) from None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let no other process look at or make `path`, a file or directory of the cache, meanwhile.

    What was left there half made, by a process that was killed, is removed first.

    Raises:
        ArtifactError: The system refuses.
    """
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    try:
        for abandoned in path.parent.glob(f".{glob.escape(path.name)}.{_DRAWN}"):
            if abandoned.is_dir():
                shutil.rmtree(abandoned, ignore_errors=True)
            else:
                abandoned.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def mapped_array(
    path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, fill: Callable[[NDArray[Any]], object]
) -> NDArray[Any] | None:
    """Return the array that is kept at `path`, memory-mapped: it may be larger than memory.

    Args:
        path: A directory of the cache, named by everything that decides the content.
        shape: The array's.
        dtype: The array's.
        fill: Writes the content into the mapped array; called where it is not there yet, or is damaged.

    Returns:
        The array, read-only. None: it would take more than half of the disk's free space. (A mapped file that outgrows
        its disk ends the process without a word.)
    """
    file, checksum = path / "array.npy", path / "sha256"

    def write(directory: Path) -> None:
        array = np.lib.format.open_memmap(directory / file.name, mode="w+", dtype=dtype, shape=shape)
        _reserve(directory / file.name)
        fill(array)
        array.flush()
        (directory / checksum.name).write_text(file_digest(directory / file.name), encoding="ascii")

    if not _is_intact(file, checksum):  # what is intact is read without a lock: the cache may be one to read only
        with alone(path):
            if not _is_intact(file, checksum):
                if np.dtype(dtype).itemsize * math.prod(shape) > shutil.disk_usage(path.parent).free // 2:
                    return None
                shutil.rmtree(path, ignore_errors=True)  # what was found damaged
                write_directory_atomically(path, write)
    mapped: NDArray[Any] = np.load(file, mmap_mode="r")
    return mapped


def _reserve(file: Path) -> None:
    """Have a mapped file's space set aside: a disk that is full by then is an error that can be told.

    Without it the error comes when a page is written, and ends the process.
    """
    if hasattr(os, "posix_fallocate"):
        with file.open("rb+") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def _is_intact(file: Path, checksum: Path) -> bool:
    try:
        return file_digest(file) == checksum.read_text(encoding="ascii")
    except (OSError, ValueError):
        return False


def new_run_directory(out: Path | None, name: str) -> Path:
    """Create the directory of a run.

    Args:
        out: Where to put it; must not exist yet, or be empty. None: `runs/NAME-DATE-TIME`.
        name: What the run is about.

    Raises:
        ArtifactError: `out` holds something already.
    """
    if out is None:
        return _fresh_directory(RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    return new_directory(out)


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


def write_arrays(path: Path, arrays: Arrays) -> None:
    """File computed arrays in the cache, for `read_arrays`: a checksum, then safetensors."""
    content = safetensors.save(arrays)
    write_atomically(path, lambda temporary: temporary.write_bytes(_checksum(content) + content))


def read_arrays(path: Path) -> Arrays | None:
    """Read what `write_arrays` wrote; None where the file is missing or is not what was written, to the last bit.

    The checksum is compared before anything is parsed: what a damaged file would do to a parser is of no interest.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return safetensors.load(content) if checksum == _checksum(content) else None


def _checksum(content: bytes) -> bytes:
    return bytes.fromhex(digest([content]))


def _fresh_directory(path: Path) -> Path:
    """Create `path`, or `path-2`, `path-3` … where other runs began in the same second."""
    later = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    candidate = path
    while True:
        with suppress(FileExistsError):
            candidate.mkdir(parents=True)
            return candidate
        candidate = next(later)
