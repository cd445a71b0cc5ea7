"""A model's answers, written as JSONL or CSV, to a stream or to a file that an interrupted run can go on with."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from potstill.errors import ArtifactError
from potstill.files import sync, written
from potstill.runtime.decision import decide
from potstill.runtime.stream import BEGINNING, Position, Text

AnswerFormat = Literal["jsonl", "csv"]
ANSWER_FORMATS: Final[tuple[str, ...]] = get_args(AnswerFormat)

DIGITS: Final = 4
"""Digits of a probability: finer differences between a model's answers mean nothing."""


@dataclass(frozen=True)
class Writing:
    """How answers are written down."""

    format: AnswerFormat
    labels: tuple[str, ...]
    """Name of each class."""
    in_pairs: bool
    threshold: float | None = None
    """The model's, where it has one; see `decide`."""

    def header(self) -> bytes:
        """Return what stands before the first answer."""
        return _csv([self._fields]) if self.format == "csv" else b""

    def answers(self, texts: Sequence[Text], probabilities: npt.NDArray[np.float32]) -> bytes:
        """Write one line (in CSV, one record) a text: its line, itself, its label, that label's probability.

        Args:
            texts: What was classified.
            probabilities: (texts, classes).
        """
        rows = [
            (text.line, *_parts(text.value), self.labels[place], round(float(row[place]), DIGITS))
            for text, row, place in zip(texts, probabilities, decide(probabilities, self.threshold), strict=True)
        ]
        if self.format == "csv":
            return _csv(rows)
        objects = (dict(zip(self._fields, row, strict=True)) for row in rows)
        return "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in objects).encode()

    @property
    def _fields(self) -> tuple[str, ...]:
        return ("line", "text", *(("pair",) if self.in_pairs else ()), "label", "probability")


def _parts(value: str | tuple[str, str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


@dataclass(frozen=True)
class Progress:
    """How far a task has come."""

    task: str
    """What decides the answers beside the input: model, formats, columns."""
    read: Position = BEGINNING
    """What of the input has been dealt with."""
    written: int = 0
    """Bytes of answers to it."""
    answered: int = 0
    """Texts answered."""
    broken: int = 0
    """Lines that could not be read."""


class Answers(Protocol):
    """Where answers go."""

    progress: Progress

    def append(self, content: bytes, progress: Progress) -> None:
        """Add answers; `progress` says how far they bring the task, `written` aside."""

    def finish(self) -> None:
        """Say that there are no more."""


class AnswerStream:
    """Answers that are handed on at once, to a terminal or a pipe; nothing can go on with them."""

    def __init__(self, stream: BinaryIO) -> None:
        self.progress = Progress("")
        self._stream = stream

    def append(self, content: bytes, progress: Progress) -> None:
        """Write and flush, so that whoever reads the other end gets what there is.

        Raises:
            ArtifactError: The system refuses.
        """
        try:
            self._stream.write(content)
            self._stream.flush()
        except BrokenPipeError:  # nobody reads any more: the shell's affair
            raise
        except OSError as error:
            raise ArtifactError(
                f"standard output can't be written: {error.strerror or error}\n"
                f"  what to do: make room, or name a file with --out, which can be resumed"
            ) from None
        self.progress = replace(progress, written=self.progress.written + len(content))

    def finish(self) -> None:
        """Leave the stream open: it is not ours."""


class AnswerFile:
    """A file of answers that has its name when it is complete, never before.

    Until then the answers are in `NAME.part`, and `NAME.part.json` tells how far they go. The two are written in this
    order. So whatever an interruption leaves in `NAME.part` beyond what is told is cut off, and answered again.
    """

    def __init__(self, path: Path, task: str) -> None:
        """Begin a file, or go on with one.

        Raises:
            ArtifactError: The file is complete, belongs to another task or process, or can't be written.
        """
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        require_absent(path)
        try:
            if not self._part.exists():
                self._save(Progress(task))  # first: a `.part` without it would belong to nobody
                self._part.touch()
            self._file = self._part.open("r+b")
            try:
                _lock(self._file, path)
                require_absent(path)  # another process may have ended the task meanwhile
                self.progress = self._begun(task)
                self._file.truncate(self.progress.written)
                self._file.seek(self.progress.written)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise ArtifactError(f"{path} can't be written: {error}\n  what to do: name another --out") from None

    def append(self, content: bytes, progress: Progress) -> None:
        """Write answers, then note how far they go.

        Raises:
            ArtifactError: The system refuses. The same task goes on from what was noted before.
        """
        with written(self._path):
            self._file.write(content)
            self._file.flush()
            os.fsync(self._file.fileno())  # the note must not survive a power cut that its answers don't
            self.progress = replace(progress, written=self._file.tell())
            self._save(self.progress)

    def finish(self) -> None:
        """Give the file its name.

        Raises:
            ArtifactError: The system refuses. The same task goes on from what is written.
        """
        with written(self._path):
            self._file.close()
            self._part.replace(self._path)
            self._note.unlink()

    def _begun(self, task: str) -> Progress:
        """Read how far an interrupted run came."""
        remedy = f"what to do: name another --out, or remove {self._part} to begin anew"
        try:
            values = json.loads(self._note.read_text(encoding="utf-8"))
            progress = Progress(**values | {"read": Position(*values["read"])})
            size = self._part.stat().st_size
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ArtifactError(
                f"{self._note} does not tell how far {self._part} goes: {error!r}\n  {remedy}"
            ) from None
        if progress.read == BEGINNING:
            return Progress(task)  # nothing was answered: another task may begin here
        if progress.task != task:
            raise ArtifactError(
                f"{self._part} was begun with another model, format or column: expected {task}, found {progress.task}\n"
                f"  {remedy}"
            )
        if size < progress.written:
            raise ArtifactError(f"{self._part}: expected at least {progress.written} bytes, found {size}\n  {remedy}")
        return progress

    def _save(self, progress: Progress) -> None:
        """Replace the note in one step, so that a reader sees the old one or the new."""
        temporary = self._note.with_name(f"{self._note.name}.new")  # one name: a kill leaves no litter
        try:
            temporary.write_text(json.dumps(asdict(progress)), encoding="utf-8")
            sync(temporary)
            temporary.replace(self._note)
        finally:
            temporary.unlink(missing_ok=True)


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep other processes from writing these answers too, until the file is closed, where the system can.

    Raises:
        ArtifactError: One does already.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ArtifactError(
            f"{path}: expected no other process to write these answers, found one\n"
            f"  what to do: wait for its end, or name another --out"
        ) from None
    except OSError:
        pass  # a file system that knows no locks


def require_absent(path: Path) -> None:
    """Refuse to overwrite anything.

    Raises:
        ArtifactError: There is something called so already.
    """
    if path.is_file():
        raise ArtifactError(f"{path} is there already, and complete\n  what to do: name another --out, or remove it")
    if path.exists():
        raise ArtifactError(f"{path} is no file that could be written as a whole\n  what to do: name another --out")
