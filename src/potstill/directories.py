"""The directory that a command works in: found or made, locked, and resumed after an interruption.

A directory is begun when `begun.json` and `config.yaml` stand in it, in this order. Whoever works in it holds the lock
on `potstill.lock`; the operating system drops that with the process, however it ends, so a lock is never stale.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from potstill.artifacts import RUNS, digest, new_run_directory
from potstill.config import PotstillConfig
from potstill.console import print_line, warn
from potstill.environment import describe_environment
from potstill.errors import ArtifactError, PotstillError
from potstill.files import read_json, write_json
from potstill.interruption import Stopped
from potstill.runtime.directory import CONFIG_FILE, LOCK_FILE
from potstill.training.compute import describe_compute

BEGUN_FILE: Final = "begun.json"
ENVIRONMENT_FILE: Final = "environment.json"

_FORMAT: Final = 1
_LATER: Final = "later"
"""Where `environment.json` keeps what differed from its other values whenever the work went on in a new environment."""
_TEMPORARY: Final = re.compile(r"\..+\.[a-z0-9_]{8}|\.tmp[A-Za-z0-9]{6}")
"""What `write_atomically`, and inside it safetensors, calls a file that is not complete yet: after a kill it stays
behind."""


class BusyError(ArtifactError):
    """Another process is at work in the directory."""


@dataclass(frozen=True)
class Work:
    """What is to be done in a directory, by what decides its result.

    Attributes:
        command: The command's name.
        name: What its directories are called: `runs/NAME-DATE-TIME`.
        config: All settings.
        inputs: Digests of what else decides the result, by what to call it.
        is_finished: Says of a directory whether nothing is left to do there.
        free: Settings and whole sections, by dotted name, that decide nothing here: they may change in between.
    """

    command: str
    name: str
    config: PotstillConfig
    inputs: dict[str, str | None]
    is_finished: Callable[[Path], bool]
    free: tuple[str, ...] = ()

    @property
    def _beginning(self) -> dict[str, Any]:
        settings = digest([json.dumps(self._settings(self.config), sort_keys=True)])
        return {"format": _FORMAT, "command": self.command, "settings": settings, "inputs": self.inputs}

    def begin(self, directory: Path) -> None:
        """Note in a new directory what is done there."""
        write_json(directory / BEGUN_FILE, self._beginning)
        self.config.save(directory / CONFIG_FILE)

    def goes_on_in(self, directory: Path) -> bool:
        """Say whether this very work was begun in `directory` and is not finished."""
        if not _is_begun(directory) or self.is_finished(directory):
            return False
        with suppress(ArtifactError):
            return read_json(directory / BEGUN_FILE) == self._beginning
        return False

    def require_same(self, directory: Path) -> None:
        """Check that what was begun in `directory` is this very work, finished or not.

        Raises:
            ArtifactError: It is not; names what differs.
            ConfigError: The settings there can't be read.
        """
        begun = read_json(directory / BEGUN_FILE)
        known, given = (self._settings(one) for one in (PotstillConfig.load(directory / CONFIG_FILE), self.config))
        differing = _differing(known, given)
        others = [name for name, value in self.inputs.items() if begun.get("inputs", {}).get(name) != value]
        if begun.get("command") != self.command:
            differing = [f"the command, `potstill {begun.get('command')}`"]
        if differing:
            raise ArtifactError(
                f"{directory} was begun with other settings: {', '.join(differing)}; see {directory / CONFIG_FILE}\n"
                f"  what to do: give the same, or another --out"
            )
        if others:
            raise ArtifactError(
                f"{directory} was begun with other inputs, or what they hold has changed since: {', '.join(others)}\n"
                f"  what to do: give the same, or another --out"
            )
        if begun != self._beginning:
            raise ArtifactError(
                f"{directory} was begun with other settings than {directory / CONFIG_FILE} holds by now: expected the "
                f"digest in {BEGUN_FILE}, found another\n"
                f"  what to do: if that file was changed, undo it; if Potstill was updated since and has other "
                f"settings now, go on with the older version; or name another --out"
            )

    def _settings(self, config: PotstillConfig) -> dict[str, Any]:
        """Return what decides a result, by dotted name: how often it is kept on the way does not."""
        free = ("runtime.checkpoint_seconds", *self.free)
        settings = _flat(config.model_dump(mode="json"))
        return {name: value for name, value in settings if not any(f"{name}.".startswith(f"{one}.") for one in free)}


def begun_inputs(directory: Path) -> dict[str, str | None]:
    """Return the digests of what work was begun with in `directory`, `Work.inputs`; none where none was begun."""
    path = directory / BEGUN_FILE
    inputs: dict[str, str | None] = read_json(path).get("inputs", {}) if path.is_file() else {}
    return inputs


@contextmanager
def working_directory(work: Work, out: Path | None, *, fresh: bool = False) -> Iterator[Path]:
    """Find or make the directory for `work`, and keep all others out of it meanwhile.

    What is computed with is noted there, in `environment.json`; a line warns where the work was begun with other
    packages, threads or devices.

    Args:
        work: What is to be done.
        out: Where: a new or empty directory, or one where the same work was begun; if it is finished there, whoever
            asks finds nothing left to do. None: the newest directory under `runs` where the same work is not finished
            and nobody works, else a new one.
        fresh: Go on with nothing, begin anew.

    Yields:
        The directory.

    Raises:
        ArtifactError: `out` holds something else, or another process is at work there.
        ConfigError: The device is not there; nothing is made then.
    """
    environment = describe_environment() | describe_compute(work.config.runtime)
    with ExitStack() as stack:
        directory = None
        if not fresh:
            directory = _unfinished(work, stack) if out is None else _begun_at(out, work, stack)
        if directory is not None and work.is_finished(directory):
            print_line(f"{directory} holds what this command makes, finished before; another --out makes it anew")
            yield directory
            return
        if directory is not None:
            hint = ", which was begun with the same settings; --fresh begins anew" if out is None else ""
            print_line(f"going on in {directory}{hint}")
            work.config.save(directory / CONFIG_FILE)  # what decides nothing may have changed
        found = directory or _new(out, work, stack)
        _note_environment(environment, found / ENVIRONMENT_FILE)
        try:
            yield found
        except Stopped as stopped:
            stopped.directory = found
            raise
        except PotstillError:
            _forget(found, is_own=out is None)  # so that the command can be mended: it has done nothing yet
            raise


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let no other process work in `directory` meanwhile.

    Raises:
        BusyError: One is at work there.
        ArtifactError: The directory can't be written to.
    """
    path = directory / LOCK_FILE
    holder = _holder(path)  # before the attempt: older versions of filelock empty the file by it
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(
            f"{directory}: expected no other process at work there, found one (process {holder or 'unknown'})\n"
            f"  what to do: wait for its end, or end it, or name another directory with --out"
        ) from None
    except OSError as error:
        raise ArtifactError(
            f"{path} can't be written: {error.strerror or error}\n  what to do: name another directory with --out"
        ) from None
    try:
        with suppress(OSError):  # Windows lets nobody write to a locked file, not even through another handle
            path.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> int | None:
    """Return the process that locked `path` last."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def find_unfinished(work: Work) -> Path | None:
    """Return the newest directory under `runs` where `work` can be resumed, not locked yet, and nobody is at work."""
    with ExitStack() as stack:
        found = _unfinished(work, stack)
    if found is not None:
        print_line(f"{found} was begun with the same settings; --fresh begins anew")
    return found


def _unfinished(work: Work, stack: ExitStack) -> Path | None:
    """Find and lock the newest directory where `work` goes on."""
    begun: list[tuple[float, Path]] = []
    for file in RUNS.glob(f"{glob.escape(work.name)}-*/{BEGUN_FILE}"):
        with suppress(FileNotFoundError):  # somebody has just taken the beginning back
            begun.append((file.stat().st_mtime, file.parent))
    for _, directory in sorted(begun, reverse=True):
        with suppress(BusyError), ExitStack() as attempt:
            if work.goes_on_in(directory):
                attempt.enter_context(locked(directory))
                if work.goes_on_in(directory):  # nobody has finished it meanwhile
                    stack.push(attempt.pop_all())
                    _clear(directory)
                    return directory
    return None


def _begun_at(directory: Path, work: Work, stack: ExitStack) -> Path | None:
    """Lock `directory` and check that `work` goes on there; None where nothing was begun there.

    Raises:
        ArtifactError: Something else was begun there.
    """
    if not _is_begun(directory):
        return None
    stack.enter_context(locked(directory))
    work.require_same(directory)
    _clear(directory)
    return directory


def _new(out: Path | None, work: Work, stack: ExitStack) -> Path:
    """Make and lock a new directory, and begin there.

    Raises:
        ArtifactError: `out` holds something.
    """
    directory = out if out is not None and holds_nothing(out) else new_run_directory(out, work.name)
    stack.enter_context(locked(directory))
    if not holds_nothing(directory):
        raise ArtifactError(f"{directory} was taken meanwhile\n  what to do: name another with --out")
    work.begin(directory)
    return directory


def _note_environment(environment: dict[str, Any], path: Path) -> None:
    """Write down what is computed with; where work goes on with something else, below what it was begun with."""
    if not path.is_file():
        write_json(path, environment)
        return
    begun = read_json(path)
    later = begun.get(_LATER, [])
    first = {name: value for name, value in begun.items() if name != _LATER}
    latest = first | (later[-1] if later else {})
    differing = _differing(environment, latest)
    if differing:
        warn(
            f"{path.parent} was begun in another environment ({', '.join(differing)} differ): what is still to be "
            "trained may not be what it would have been, bit for bit"
        )
        changed = {name: environment.get(name) for name in _differing(environment, first)}
        write_json(path, first | {_LATER: [*later, changed]})


def _forget(directory: Path, *, is_own: bool) -> None:
    """Take a beginning back after which nothing was done; with it the directory, where no user has named it."""
    begun = (BEGUN_FILE, CONFIG_FILE, ENVIRONMENT_FILE, LOCK_FILE)
    with suppress(OSError):
        if all(path.name in begun for path in directory.iterdir()):
            for name in begun if is_own else begun[:-1]:
                (directory / name).unlink(missing_ok=True)
            if is_own:
                directory.rmdir()


def _differing(values: dict[str, Any], others: dict[str, Any]) -> list[str]:
    return [name for name in (values | others) if values.get(name) != others.get(name)]


def _is_begun(directory: Path) -> bool:
    return all((directory / name).is_file() for name in (BEGUN_FILE, CONFIG_FILE))


def holds_nothing(directory: Path) -> bool:
    """Say whether a directory is empty but for what a beginning leaves that was interrupted at once."""
    if not directory.is_dir():
        return False
    names = {path.name for path in directory.iterdir()} - {LOCK_FILE, BEGUN_FILE}
    return all(_TEMPORARY.fullmatch(name) for name in names)


def _clear(directory: Path) -> None:
    """Remove the incomplete files that a kill left behind."""
    for path in directory.rglob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink()


def _flat(values: dict[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{section}{name}.")
        else:
            yield f"{section}{name}", value
