"""The directory of a command's run: made or found, locked, and resumed after an interruption.

A run has begun in a directory once `state.json` is there, which says what is computed. The process that works in the
directory holds a lock on `potstill.lock`. The operating system releases it when the process ends, in whatever way, so
no lock is ever stale.
"""

from __future__ import annotations

import glob
import itertools
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock, Timeout

from potstill.config import PotstillConfig
from potstill.console import print_line, warn
from potstill.data.piped import keep_standard_input, standard_input_in
from potstill.errors import ArtifactError, PotstillError
from potstill.executor.signals import Stopped
from potstill.predict.directory import CONFIG_FILE, LOCK_FILE
from potstill.store.atomic import new_directory, read_json, write_json
from potstill.teacher.backbone.builtin import BUILTIN
from potstill.training.compute import describe_fabric, make_fabric, processor_name

RUNS: Final = Path("runs")
"""Where commands write without `--out`."""
STATE_FILE: Final = "state.json"
ENVIRONMENT_FILE: Final = "environment.json"
BUDGET_FILE: Final = "budget.json"
"""The time that a run with a time limit has used, and its plan."""

_FORMAT: Final = 2
_PACKAGES: Final = ("potstill", "torch", "transformers", "tokenizers", "lightning-fabric", "numpy", "onnxruntime")
"""Whose versions are part of the environment."""
_UNIMPORTANT: Final = (
    *("preset", "runtime.checkpoint_seconds", "runtime.executor", "runtime.workers", "runtime.teacher_base"),
    "runtime.trackers",
    *("data.source", "data.test", "data.validation", "augment.files", "teacher.file"),
    *("teacher.concurrency", "teacher.requests_per_minute", "teacher.timeout", "teacher.retries"),
    "teacher.price_per_million_tokens",
)
"""Settings that change no result, or that `RunSpec.inputs` holds by content: a file may have another name now."""
_LATER: Final = "later"
"""Key in `environment.json` of a list: for each resumption in another environment, the values that differed."""
_TEMPORARY: Final = re.compile(r"\..+\.[a-z0-9_]{8}|\.tmp[A-Za-z0-9]{6}")
"""Names of incomplete files of `write_atomically` and safetensors, which a kill leaves behind."""


class BusyError(ArtifactError):
    """Another process is working in the directory."""


@dataclass(frozen=True)
class RunSpec:
    """What a command computes, by what decides its result.

    Attributes:
        name: What its directories are called: `runs/NAME-DATE-TIME`.
        inputs: Digests of what else than `config` decides the result, by name.
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
    def state(self) -> dict[str, Any]:
        """What `state.json` holds: all that decides the result."""
        free = tuple(f"{name}." for name in (*_UNIMPORTANT, *self.free))
        everything = _flat(self.config.model_dump(mode="json"))
        settings = {name: _located(name, value) for name, value in everything if not f"{name}.".startswith(free)}
        return {"format": _FORMAT, "command": self.command, "inputs": self.inputs, "settings": settings}

    def can_resume(self, directory: Path) -> bool:
        """Say whether this run has begun in `directory` and is not finished."""
        with suppress(ArtifactError):
            return read_json(directory / STATE_FILE) == self.state and not self.is_finished(directory)
        return False

    def require_same(self, directory: Path) -> None:
        """Check that the run in `directory` is this one, finished or not.

        Raises:
            ArtifactError: It is not; names what differs.
        """
        begun, given = (dict(_flat(state)) for state in (read_json(directory / STATE_FILE), self.state))
        if differing := [name.removeprefix("settings.") for name in _differing(begun, given)]:
            raise ArtifactError(
                f"{directory} was begun with other settings or inputs: {', '.join(differing)}\n"
                f"  what to do: give the same (a file with other content is another input), or name another --out"
            )


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware by name, ready for JSON."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{package: version(package) for package in _PACKAGES},
    }


def recorded_inputs(directory: Path) -> dict[str, str | None]:
    """Return the `RunSpec.inputs` of the run in `directory`; none where there is no run."""
    path = directory / STATE_FILE
    return dict(read_json(path).get("inputs", {})) if path.is_file() else {}


@contextmanager
def run_directory(spec: RunSpec, out: Path | None, *, restart: bool = False) -> Iterator[Path]:
    """Find or make the directory of a run, and lock it.

    The environment is written to `environment.json`; a warning says so where the run has begun in another one.

    `out` is a new or empty directory, or one where the same run has begun, finished or not. None: the newest directory
    under `runs` where the same run is not finished and no process works, else a new one. `restart` resumes nothing.

    Raises:
        ArtifactError: `out` holds something else, or another process is working there.
        ConfigError: The device doesn't exist; nothing is made then.
    """
    environment = describe_environment() | describe_fabric(make_fabric(spec.config.runtime))
    with ExitStack() as stack:
        found = None if restart else _lock_begun(out, spec, stack)
        directory = found or _lock_new(out, spec, stack)
        if found is None:
            write_json(directory / STATE_FILE, spec.state)
        elif spec.is_finished(found):
            print_line(f"{found} holds the results of this command, finished before; another --out makes them anew")
            yield found
            return
        else:
            hint = ", which was begun with the same settings; --restart begins anew" if out is None else ""
            print_line(f"going on in {directory}{hint}")
            for path in directory.rglob(".*"):
                if _TEMPORARY.fullmatch(path.name) and path.is_file():
                    path.unlink()
        # Settings that decide nothing may have changed.
        with_kept_data(spec.config, directory).save(directory / CONFIG_FILE)
        _write_environment(environment, directory / ENVIRONMENT_FILE)
        try:
            yield directory
        except Stopped as stopped:
            stopped.directory = directory
            raise
        except PotstillError:
            _undo_beginning(directory, remove=out is None)  # so that the corrected command can use the directory
            raise


def with_kept_data(config: PotstillConfig, directory: Path) -> PotstillConfig:
    """Keep data from standard input in a run's directory, and return settings that name the copy."""
    return config.model_copy(update={"data": keep_standard_input(config.data, directory)})


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes out of `directory`.

    Raises:
        BusyError: One is working there.
        ArtifactError: The directory can't be written to.
    """
    path = directory / LOCK_FILE
    holder = ""
    with suppress(OSError, ValueError):
        holder = path.read_text(encoding="ascii").strip()  # before the attempt: old versions of filelock empty the file
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
        with suppress(OSError):  # Windows refuses to write to a locked file, even through another handle
            path.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        lock.release()


def new_run_directory(out: Path | None, name: str) -> Path:
    """Make the directory of a new run: `out`, which must be new or empty, else `runs/NAME-DATE-TIME`.

    Raises:
        ArtifactError: `out` holds something already.
    """
    if out is not None:
        return new_directory(out)
    title = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        directory = RUNS / (title if number == 1 else f"{title}-{number}")
        with suppress(FileExistsError):  # another run has begun in the same second
            directory.mkdir(parents=True)
            break
    return directory


def is_unused(directory: Path) -> bool:
    """Say whether a directory is empty but for a lock and incomplete files, which an early kill leaves behind."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else [""]
    return all(name == LOCK_FILE or _TEMPORARY.fullmatch(name) for name in names)


def _lock_begun(out: Path | None, spec: RunSpec, stack: ExitStack) -> Path | None:
    """Lock the directory where `spec` has begun: `out`, or the newest unfinished one; None where there is none."""
    if out is not None:
        if not (out / STATE_FILE).is_file():
            return None
        stack.enter_context(locked(out))
        spec.require_same(out)
        return out
    begun: list[tuple[float, Path]] = []
    for file in RUNS.glob(f"{glob.escape(spec.name)}-*/{STATE_FILE}"):
        with suppress(FileNotFoundError):  # another process may have just removed it
            begun.append((file.stat().st_mtime, file.parent))
    for _, directory in sorted(begun, reverse=True):
        if spec.can_resume(directory):
            with suppress(BusyError):
                stack.enter_context(locked(directory))
                return directory
    return None


def _lock_new(out: Path | None, spec: RunSpec, stack: ExitStack) -> Path:
    directory = out if out is not None and is_unused(out) else new_run_directory(out, spec.name)
    stack.enter_context(locked(directory))
    if not is_unused(directory):
        raise ArtifactError(f"{directory} was taken by another process\n  what to do: name another with --out")
    return directory


def _write_environment(environment: dict[str, Any], path: Path) -> None:
    """Write the environment; where it differs from the one before, add the difference below that."""
    if not path.is_file():
        write_json(path, environment)
        return
    first = read_json(path)
    later = first.pop(_LATER, [])
    if differing := _differing(environment, first | (later[-1] if later else {})):
        warn(
            f"{path.parent} was begun in another environment ({', '.join(differing)} differ): the models still to be "
            "trained may differ in the last bits"
        )
        changed = {name: environment.get(name) for name in _differing(environment, first)}
        write_json(path, first | {_LATER: [*later, changed]})


def _undo_beginning(directory: Path, *, remove: bool) -> None:
    """Remove the files of a run that has done nothing yet; with `remove` the directory too."""
    begun = [STATE_FILE, CONFIG_FILE, ENVIRONMENT_FILE, BUDGET_FILE, LOCK_FILE]
    with suppress(OSError):
        if (copy := standard_input_in(directory)) is not None:
            begun.insert(0, copy.name)
        if all(path.name in begun for path in directory.iterdir()):
            for name in begun if remove else begun[:-1]:
                (directory / name).unlink(missing_ok=True)
            if remove:
                directory.rmdir()


def _differing(values: dict[str, Any], others: dict[str, Any]) -> list[str]:
    return [name for name in (values | others) if values.get(name) != others.get(name)]


def _located(name: str, value: Any) -> Any:
    """Return a setting's value; of a directory or a file on this disk its absolute path."""
    if name == "teacher.backbone" and value != BUILTIN:
        with suppress(RuntimeError):  # a user without a home
            if (path := Path(value).expanduser()).exists():
                return str(path.resolve())
    return value


def _flat(values: dict[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{section}{name}.")
        else:
            yield f"{section}{name}", value
