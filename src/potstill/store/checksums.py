"""Checksums beside files: `checksums.json` holds the size and the SHA-256 digest of the files of its directory.

A reader compares a listed file first (`read`, `verify`): a file that is missing, cut short, altered or of another save
is refused by its name before anything is parsed.

A save replaces all files of a directory or none (`atomic_save`). It fills a hidden directory beside the old files.
Once that holds a `checksums.json` the save is complete, and its files are moved into place. If the process is killed
while it moves them, the next reader moves the rest (`recover`).
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from potstill.errors import ArtifactError
from potstill.store.atomic import MAX_JSON, os_errors, parse_json, sync, write_json

if TYPE_CHECKING:
    from io import BufferedReader

CHECKSUMS_FILE: Final = "checksums.json"

_FORMAT: Final = 1
_STAGED: Final = ".saving-"
"""The hidden directory of a save begins so."""
_MAX_BYTES: Final = 1 << 20
"""Largest `checksums.json`: no directory of ours has that many files."""
_MAX_READ: Final = 1 << 31
"""Largest file that is read into memory, which is also the largest ONNX model: a sparse file may claim any size."""
KEY_BYTES: Final = 16
"""Length of a content key: 128 bits, so that two contents never meet by chance."""

_Result = TypeVar("_Result")


class Checksum(NamedTuple):
    """A file's size and digest."""

    bytes: int
    sha256: str


def digest(parts: Iterable[bytes | str]) -> str:
    """Return a hexadecimal content key; every part's length is hashed too, so that parts can't run into each other."""
    state = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        # A text that came through JSON can hold half of a surrogate pair, which plain UTF-8 refuses.
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(directory: Path, names: Iterable[str] | None = None) -> None:
    """Write `checksums.json` over files of `directory` (None: all), in place of any that was there.

    Raises:
        ArtifactError: A file is missing, or the system refuses to write.
    """
    if names is None:
        names = [file.name for file in directory.iterdir() if file.is_file() and file.name != CHECKSUMS_FILE]
    _write(directory, {name: _measure(directory / name) for name in names})


def has_checksums(directory: Path) -> bool:
    """Say whether there is a `checksums.json`, readable or not."""
    return (directory / CHECKSUMS_FILE).exists() or bool(_complete_saves(directory))


def listed_files(directory: Path) -> dict[str, Checksum]:
    """Return what `checksums.json` lists; nothing where there is none that can be read."""
    try:
        return _parse(_content(directory), directory / CHECKSUMS_FILE)
    except ArtifactError:
        return {}


def verify(directory: Path, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Compare files (None: all that are listed) with `checksums.json`; returns the names of all listed files.

    They are read in pieces, whatever their size.

    Raises:
        ArtifactError: There is no `checksums.json`, or one of these files differs. The file is named.
    """

    def compare(listed: Mapping[str, Checksum]) -> tuple[str, ...]:
        for name in listed if names is None else names:
            _compare(directory, name, listed)
        return tuple(listed)

    return _consistently(directory, compare)


def read(directory: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Read listed files, each once: what is returned is what was compared, whatever happens to the file meanwhile.

    Raises:
        ArtifactError: There is no `checksums.json`, or one of these files differs. The file is named.
    """
    return _consistently(
        directory, lambda listed: {name: _compare(directory, name, listed, keep=True) for name in names}
    )


@contextmanager
def assert_unchanged(directory: Path) -> Iterator[None]:
    """Check that no save came in between while files were read by their names, or several times.

    A directory without checksums, such as an adapter of PEFT's, is not checked.

    Raises:
        ArtifactError: One came in between.
    """
    recover(directory)
    before = _content(directory) if has_checksums(directory) else None
    yield
    if before is not None and (_complete_saves(directory) or _content(directory) != before):
        raise ArtifactError(
            f"{directory} was saved again while it was read\n"
            f"  what to do: repeat the command; if a training is still running there, wait for its end"
        )


@contextmanager
def atomic_save(directory: Path, also: Iterable[str] = ()) -> Iterator[Path]:
    """Yield an empty directory for new files; at the end they replace those in `directory`, all of them or none.

    Files that were listed before and are not replaced stay listed, unread: a damaged one stays refused.

    One process saves to a directory at a time. `also` names files in it that were written otherwise, to be listed with
    the new ones.

    Raises:
        ArtifactError: The system refuses to write. The old files are unchanged; or the new ones were complete, and the
            next reader finds these.
    """
    with os_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        recover(directory)
        for abandoned in directory.glob(f"{_STAGED}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        staged = Path(tempfile.mkdtemp(dir=directory, prefix=_STAGED))
        try:
            yield staged
            new = sorted(staged.iterdir())
            for file in new:
                sync(file)
            listed = listed_files(directory) | {name: _measure(directory / name) for name in also}
            _write(staged, listed | {file.name: _measure(file) for file in new})
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        recover(directory)


def recover(directory: Path) -> None:
    """Finish an interrupted save that was complete: move its files into place, `checksums.json` last.

    To be called before a directory is listed; several processes may do so at once.

    Raises:
        ArtifactError: The system refuses.
    """
    try:
        for save in _complete_saves(directory):
            files = [file for file in save.iterdir() if _is_regular(file)]
            for file in sorted(files, key=lambda file: file.name == CHECKSUMS_FILE):
                with suppress(FileNotFoundError):  # another process moved it
                    file.replace(directory / file.name)
            sync(directory)
            with suppress(OSError):
                save.rmdir()
    except FileNotFoundError:
        return  # another process has moved all of it
    except OSError as error:
        raise ArtifactError(
            f"{directory}: a save was interrupted, and can't be ended: {error.strerror}\n"
            f"  what to do: make room, or make the directory writable, or read a copy of it that is"
        ) from error


def _complete_saves(directory: Path) -> list[Path]:
    """List the saves whose files are not in place yet; links are ignored, which could lead to another directory."""
    saves = (save for save in directory.glob(f"{_STAGED}*") if not save.is_symlink())
    return [save for save in saves if _is_regular(save / CHECKSUMS_FILE)]


def _is_regular(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()


def _consistently(directory: Path, action: Callable[[Mapping[str, Checksum]], _Result]) -> _Result:
    """Call `action` with the checksums; again, if a save came in between."""
    while True:
        recover(directory)
        content = _content(directory)
        try:
            return action(_parse(content, directory / CHECKSUMS_FILE))
        except ArtifactError:
            # In this order: a save that has ended has left its checksums.
            if not _complete_saves(directory) and _content(directory) == content:
                raise


def _content(directory: Path) -> bytes:
    path = directory / CHECKSUMS_FILE
    if not path.exists():
        raise _refused(path, "is missing: expected checksums.json with the digests of the files beside it, found none")
    with _opened(path) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise _refused(path, f"is too large: expected at most {_MAX_BYTES} bytes, found more")
    return content


def _parse(content: bytes, path: Path) -> dict[str, Checksum]:
    values = parse_json(content, path)
    files = values.get("files")
    if values.get("format") != _FORMAT or not isinstance(files, dict):
        raise _refused(path, f"is damaged: expected format {_FORMAT} with a mapping of files, found another")
    _require_plain(files, path)
    try:
        listed = {name: Checksum(**value) for name, value in files.items()}
    except TypeError:
        raise _refused(path, "is damaged: expected a size and a digest of every file, found others") from None
    for name, (size, sha256) in listed.items():
        if type(size) is not int or not isinstance(sha256, str):
            raise _refused(path, f"is damaged: expected size and SHA-256 of {name}, found others")
    return listed


def _require_plain(names: Iterable[str], path: Path) -> None:
    """Refuse names that could lead out of their directory, on any system."""
    for name in names:
        if name in ("", ".", "..", CHECKSUMS_FILE) or re.search(r"[/\\:\x00-\x1f]", name):
            raise _refused(path, f"is damaged: expected names of files in the same directory, found {name!r}")


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    if not path.is_file():  # nor a pipe, which would be waited for
        raise ArtifactError(
            f"{path.parent} is incomplete: expected a file {path.name}, found none\n"
            "  what to do: restore it, or save the model again"
        )
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ArtifactError(
            f"{path} can't be read: {error.strerror}\n  what to do: check its permissions and its disk"
        ) from None


def _measure(path: Path) -> Checksum:
    with _opened(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        return Checksum(file.tell(), found)


def _compare(directory: Path, name: str, listed: Mapping[str, Checksum], *, keep: bool = False) -> bytes:
    """Compare a file with its checksum, its size first: no wrong size is ever read. With `keep` return the content."""
    if name not in listed:
        found = ", ".join(listed) or "none"
        raise _refused(directory / CHECKSUMS_FILE, f"is damaged: expected {name} among the listed files, found {found}")
    path, expected = directory / name, listed[name]
    with _opened(path) as file:
        size = file.seek(0, 2)
        if size != expected.bytes:
            what = "was cut short" if size < expected.bytes else "was altered"
            raise _refused(path, f"{what}: expected {expected.bytes} bytes, found {size}")
        most = MAX_JSON if path.suffix == ".json" else _MAX_READ
        if keep and size > most:
            raise _refused(path, f"is too large: expected at most {most} bytes, found {size}")
        file.seek(0)
        content = file.read(size) if keep else b""
        found = (hashlib.sha256(content) if keep else hashlib.file_digest(file, "sha256")).hexdigest()
    if found != expected.sha256:
        raise _refused(path, f"was altered, or is of another save: its digest is not the one in {CHECKSUMS_FILE}")
    return content


def _refused(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(f"{path} {problem}\n  what to do: copy the directory again, or save the model again")


def _write(directory: Path, checksums: Mapping[str, Checksum]) -> None:
    _require_plain(checksums, directory / CHECKSUMS_FILE)
    files = {name: checksum._asdict() for name, checksum in sorted(checksums.items())}
    write_json(directory / CHECKSUMS_FILE, {"format": _FORMAT, "files": files})
