"""A directory's seal: sizes and SHA-256 digests of its files, written last and compared by whatever reads them.

`checksums.json` says which files belong together. A file that is missing, cut short, altered or of another save does
not fit, and is refused by its name before anything is parsed.

A save replaces all files of a model or none (`sealing`). It fills a hidden directory beside them, seals it, and from
that moment it counts: a reader that finds such a directory, since the save was killed while it moved the files to
their place, moves what is left. So no moment exists at which a kill leaves neither the old model nor the new one.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from potstill.errors import ArtifactError
from potstill.files import parse_json, sync, write_json, written

SEAL: Final = "checksums.json"

_FORMAT: Final = 1
_STAGED: Final = ".saving-"
"""What the directories of saves under way begin with."""
_MOST_BYTES: Final = 1 << 20
"""A seal of more names than any directory of ours has files is none."""
_ATTEMPTS: Final = 5
"""A reader that meets a save reads again; nobody saves five times while one model is read."""

_SHA256 = re.compile("[0-9a-f]{64}")

_Result = TypeVar("_Result")


class Entry(NamedTuple):
    """What a file is known by."""

    bytes: int
    sha256: str


def seal(directory: Path, names: Iterable[str]) -> None:
    """Write `checksums.json` over files that stand in `directory`, in place of any that was there.

    Args:
        directory: Where the files are.
        names: The files that decide an answer; plain names.

    Raises:
        ArtifactError: A file is missing, or the system refuses to write.
    """
    _write(directory, {name: _entry(directory / name) for name in names})


def is_sealed(directory: Path) -> bool:
    """Say whether there is a seal, fitting or not."""
    return (directory / SEAL).exists() or _pending(directory)


def sealed_names(directory: Path) -> tuple[str, ...]:
    """Name the files that are sealed, fitting or not; none where there is no seal that can be read."""
    return tuple(_known(directory))


def verify(directory: Path, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Compare sealed files with their seal; they are read in pieces, whatever their size.

    Args:
        directory: What `seal` or `sealing` wrote.
        names: The files that the caller goes on to read. None: all that are sealed.

    Returns:
        The names of all sealed files.

    Raises:
        ArtifactError: There is no seal, or one of these files does not fit it. The file is named.
    """

    def compare(entries: Mapping[str, Entry]) -> tuple[str, ...]:
        for name in entries if names is None else names:
            expected = _listed(entries, directory, name)
            _compare(directory / name, expected, _entry(directory / name, expected))
        return tuple(entries)

    return _reading(directory, compare)


def read(directory: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Read sealed files, each once: what is returned is what was compared, whatever happens to the file meanwhile.

    Raises:
        ArtifactError: There is no seal, or one of these files does not fit it. The file is named.
    """

    def compared(entries: Mapping[str, Entry]) -> dict[str, bytes]:
        found = {}
        for name in names:
            expected = _listed(entries, directory, name)
            found[name] = _content(directory / name, expected)
        return found

    return _reading(directory, compared)


@contextmanager
def undisturbed(directory: Path) -> Iterator[None]:
    """Make sure that no save came in between while files were read by their names, or several times.

    A directory without a seal, an adapter of PEFT's, can't tell.

    Raises:
        ArtifactError: One came in between.
    """
    settle(directory)
    before = _seal_content(directory) if is_sealed(directory) else None
    yield
    if before is not None and (_pending(directory) or _seal_content(directory) != before):
        raise ArtifactError(
            f"{directory} was saved again while it was read\n"
            f"  what to do: repeat the command; while a training goes on there, better wait for its end"
        )


@contextmanager
def sealing(directory: Path, also: Iterable[str] = ()) -> Iterator[Path]:
    """Yield an empty directory for new files; at the end they replace those in `directory`, all of them or none.

    What was sealed there before and is not replaced stays sealed, unread: if it was damaged, it stays refused.

    Args:
        directory: Where the files go to; made if need be. One process saves there at a time.
        also: Names of files that stand there, grown by other means, to be sealed with the new ones.

    Raises:
        ArtifactError: The system refuses to write. The old files stand as they were, or, if it refuses once the new
            ones are complete, the next reader finds these.
    """
    with written(directory):
        directory.mkdir(parents=True, exist_ok=True)
        settle(directory)
        for abandoned in directory.glob(f"{_STAGED}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        staged = Path(tempfile.mkdtemp(dir=directory, prefix=_STAGED))
        try:
            yield staged
            new = [file.name for file in staged.iterdir()]
            for name in new:
                sync(staged / name)
            entries = _known(directory) | {name: _entry(directory / name) for name in also}
            _write(staged, entries | {name: _entry(staged / name) for name in new})
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        settle(directory)


def settle(directory: Path) -> None:
    """End a save that was killed once it counted: put its files in their place, the seal last.

    Whoever asks which files stand in a directory settles it first; where nothing waits, that is one look at its names.
    Several processes may do so at once.

    Raises:
        ArtifactError: The system refuses.
    """
    try:
        for place in _complete(directory):
            files = (file.name for file in place.iterdir() if _is_regular(file))
            names = sorted(files, key=lambda name: (name == SEAL, name))
            for name in names:
                with suppress(FileNotFoundError):  # another process moved it
                    (place / name).replace(directory / name)
            sync(directory)
            with suppress(OSError):
                place.rmdir()
    except FileNotFoundError:
        return  # another process has moved all of it
    except OSError as error:
        raise ArtifactError(
            f"{directory}: a save was interrupted, and can't be ended: {error.strerror}\n"
            f"  what to do: make room, or make the directory one that can be written to, or read a copy of it that can"
        ) from error


def _complete(directory: Path) -> list[Path]:
    """List the saves that count. A link is none of ours: it could lead to files of another directory."""
    places = (place for place in directory.glob(f"{_STAGED}*") if not place.is_symlink())
    return [place for place in places if _is_regular(place / SEAL)]


def _is_regular(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()


def _pending(directory: Path) -> bool:
    return bool(_complete(directory))


def _reading(directory: Path, action: Callable[[Mapping[str, Entry]], _Result]) -> _Result:
    """Read what is sealed; again, where a save came in between."""
    for attempt in range(1, _ATTEMPTS + 1):
        settle(directory)
        content = _seal_content(directory)
        try:
            return action(_parse(content, directory / SEAL))
        except ArtifactError:
            # In this order: a save that is no longer under way has left its seal.
            undisturbed = not _pending(directory) and _seal_content(directory) == content
            if undisturbed or attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _seal_content(directory: Path) -> bytes:
    path = directory / SEAL
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ArtifactError(
            f"{directory}: expected {SEAL} with the sizes and digests of its files, found none\n"
            f"  what to do: copy the whole directory again; if it is complete as it is, `potstill doctor --seal "
            f"{directory}` says so in a new {SEAL}"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _known(directory: Path) -> dict[str, Entry]:
    """Return what is sealed by now; nothing where there is no seal that can be read."""
    try:
        return _parse(_seal_content(directory), directory / SEAL)
    except ArtifactError:
        return {}


def _parse(content: bytes, path: Path) -> dict[str, Entry]:
    if len(content) > _MOST_BYTES:
        raise _damaged(path, f"expected at most {_MOST_BYTES} bytes, found more")
    values = parse_json(content, path)
    if values.get("format") != _FORMAT:
        raise _damaged(path, f"expected format {_FORMAT}, found {values.get('format')!r}")
    files = values.get("files")
    if not isinstance(files, dict):
        raise _damaged(path, "expected a mapping of files, found none")
    return {name: _parse_entry(name, value, path) for name, value in files.items()}


def _parse_entry(name: str, value: Any, path: Path) -> Entry:
    if not _is_plain(name):
        raise _damaged(path, f"expected names of files in the same directory, found {name!r}")
    size, sha256 = (value.get(key) for key in Entry._fields) if isinstance(value, dict) else (None, None)
    if type(size) is not int or size < 0 or not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise _damaged(path, f"expected size and SHA-256 of {name}, found others")
    return Entry(size, sha256)


def _is_plain(name: str) -> bool:
    """Say whether a name stays in its directory, on every system."""
    return name not in ("", ".", "..", SEAL) and not re.search(r"[/\\:\x00-\x1f]", name)


def _listed(entries: Mapping[str, Entry], directory: Path, name: str) -> Entry:
    if name not in entries:
        found = ", ".join(entries) or "none"
        raise _damaged(directory / SEAL, f"expected {name} among the sealed files, found {found}")
    return entries[name]


def _entry(path: Path, expected: Entry | None = None) -> Entry:
    """Measure a file; where its size is not the expected one, the digest is not computed."""
    _require_file(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if expected is not None and size != expected.bytes:
                return Entry(size, "")
            file.seek(0)
            return Entry(size, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise _unreadable(path, error) from None


def _content(path: Path, expected: Entry) -> bytes:
    """Read a file that has to be this one."""
    _require_file(path)
    try:
        with path.open("rb") as file:
            if (size := file.seek(0, 2)) != expected.bytes:  # before a size that is wrong is made room for
                _compare(path, expected, Entry(size, ""))
            file.seek(0)
            content = file.read(expected.bytes)
    except OSError as error:
        raise _unreadable(path, error) from None
    _compare(path, expected, Entry(len(content), hashlib.sha256(content).hexdigest()))
    return content


def _compare(path: Path, expected: Entry, found: Entry) -> None:
    if found.bytes < expected.bytes:
        raise _altered(path, f"was cut short: expected {expected.bytes} bytes, found {found.bytes}")
    if found.bytes > expected.bytes:
        raise _altered(path, f"was altered: expected {expected.bytes} bytes, found {found.bytes}")
    if found.sha256 != expected.sha256:
        raise _altered(path, f"was altered, or is of another save: its digest is not the one in {SEAL}")


def _require_file(path: Path) -> None:
    if not path.is_file():  # nor a pipe, which would be waited for
        raise ArtifactError(
            f"{path.parent} is incomplete: expected a file {path.name}, found none\n"
            "  what to do: restore it, or save the model again"
        )


def _altered(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{path} {what}\n"
        f"  what to do: copy the directory again, or save the model again; if you changed the file on purpose, "
        f"`potstill doctor --seal {path.parent}`"
    )


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {what}\n  what to do: copy the directory again, or save the model again")


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path} can't be read: {error.strerror}\n  what to do: check its permissions and its disk")


def _write(directory: Path, entries: Mapping[str, Entry]) -> None:
    values = {name: entry._asdict() for name, entry in sorted(entries.items())}
    if escaping := [name for name in values if not _is_plain(name)]:
        raise ArtifactError(f"{directory}: expected plain names of files to seal, found {escaping}")
    write_json(directory / SEAL, {"format": _FORMAT, "files": values})
