"""The errors that a user can cause. Each says what was expected, what was found and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class PotstillError(Exception):
    """Base of every error that Potstill raises on purpose; the command line prints it without a traceback."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it without calling `__init__`, which in some classes takes other arguments than the message."""
        return _rebuilt, (type(self), self.args), self.__dict__


class ConfigError(PotstillError):
    """The configuration can't be used. Lists every problem that was found, not the first alone."""

    def __init__(self, problems: list[str], source: str = "the configuration") -> None:
        self.problems = problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{source} can't be used:\n{lines}")


class DataError(PotstillError):
    """A data file can't be read right. Names the file, the line if there is one, and the remedy."""

    def __init__(self, message: str, *, file: Path | str, line: int | None = None, remedy: str) -> None:
        self.message, self.file, self.line, self.remedy = message, str(file), line, remedy
        where = f"{file}:{line}" if line is not None else str(file)
        super().__init__(f"{where}: {message}\n  what to do: {remedy}")


class MissingColumnError(DataError):
    """Labelled text lacks a column."""


class SourceError(PotstillError):
    """A model or data set that was asked for by name can't be found or reached."""


class NotFoundError(SourceError):
    """There is nothing by that name."""


class ArtifactError(PotstillError):
    """A saved model, run or cache directory is missing, incomplete, altered or of another kind than expected."""


class UnpromisedError(ArtifactError):
    """A student can't promise the largest error that was asked for."""


def how_to_install(extra: str = "") -> str:
    """Say how to install Potstill, which no package index has, with an extra."""
    what = f"[{extra}]" if extra else ""
    return f"pip install '.{what}' in a checkout of Potstill, or pip install 'WHEEL{what}' with the name of its wheel"


class MissingExtraError(PotstillError):
    """A command needs packages that the installed extras don't bring."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed\n  what to do: {how_to_install(extra)}"
        )


class TrainingError(PotstillError):
    """Training can't go on, for instance because the loss is no longer finite."""


class MemoryUsedUpError(TrainingError):
    """Memory is used up: with more of it the same call may succeed."""


class ServeError(PotstillError):
    """The server can't start: models of one name, an address in use, an unreadable token."""


def _rebuilt(kind: type[PotstillError], arguments: tuple[Any, ...]) -> PotstillError:
    error = kind.__new__(kind)
    error.args = arguments
    return error
