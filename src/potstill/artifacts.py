"""Writing and reading what Potstill keeps on disk: atomic files, digests, the cache, run directories."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray
from safetensors import numpy as safetensors

from potstill.errors import ArtifactError

Arrays = dict[str, NDArray[Any]]

DIGEST_BYTES = 16
"""Length of a content key: 128 bits, so that two contents never meet by chance."""


def cache_directory() -> Path:
    """Return where computed things are kept: `$POTSTILL_CACHE`, else `potstill` in the user's cache directory."""
    if named := os.environ.get("POTSTILL_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "potstill"


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


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers see the old file or the new one.

    What `write` returns is not looked at, so that `lambda file: file.write_text(...)` will do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's files are private; these are meant to be read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_directory_atomically(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` fill a temporary directory beside `path`, then rename it: readers see all of it or nothing.

    Where `path` is there already, another process was faster and its directory stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        fill(temporary)
        temporary.chmod(0o755)  # mkdtemp's are private; these are meant to be read
        if not path.exists():
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
        fill(array)
        array.flush()
        (directory / checksum.name).write_text(file_digest(directory / file.name), encoding="ascii")

    if not _is_intact(file, checksum):
        path.parent.mkdir(parents=True, exist_ok=True)
        if np.dtype(dtype).itemsize * math.prod(shape) > shutil.disk_usage(path.parent).free // 2:
            return None
        shutil.rmtree(path, ignore_errors=True)  # what was found damaged
        write_directory_atomically(path, write)
    mapped: NDArray[Any] = np.load(file, mmap_mode="r")
    return mapped


def _is_intact(file: Path, checksum: Path) -> bool:
    try:
        return file_digest(file) == checksum.read_text(encoding="ascii")
    except (OSError, ValueError):
        return False


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: The file is missing, or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"expected the file {path}, found none\n  what to do: check the path") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not readable as JSON ({error})\n  what to do: make it again") from None
    if not isinstance(value, dict):
        raise ArtifactError(
            f"{path}: expected a JSON object, found {type(value).__name__}\n  what to do: make it again"
        )
    return value


def new_run_directory(out: Path | None, name: str) -> Path:
    """Create the directory of a run.

    Args:
        out: Where to put it; must not exist yet, or be empty. None: `runs/NAME-DATE-TIME`.
        name: What the run is about.

    Raises:
        ArtifactError: `out` holds something already.
    """
    if out is None:
        return _fresh_directory(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(
            f"{out} exists and is not empty; nothing is ever overwritten\n  what to do: name another with --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{out} can't be made: {error}\n  what to do: name another with --out") from None
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
