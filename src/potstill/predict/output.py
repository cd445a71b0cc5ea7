"""A model's answers, written as JSONL or CSV, to a stream or to a file that an interrupted run can go on with."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from potstill.errors import ArtifactError
from potstill.predict.abstention import prediction_sets
from potstill.predict.decision import Threshold, abstains, named, predict_class, typed_labels
from potstill.predict.directory import LabelType
from potstill.predict.stream import BEGINNING, Position, Text
from potstill.predict.wording import printable
from potstill.store.atomic import os_errors, sync

AnswerFormat = Literal["jsonl", "csv"]
ANSWER_FORMATS: Final[tuple[str, ...]] = get_args(AnswerFormat)

_encode: Final = json.JSONEncoder(ensure_ascii=False).encode
"""What `json.dumps` does, which would make an encoder for each answer."""

DIGITS: Final = 4
"""Digits of a probability: finer differences between a model's answers mean nothing."""


@dataclass(frozen=True)
class Writing:
    """How answers are written down."""

    format: AnswerFormat
    labels: tuple[str, ...]
    """Name of each class."""
    in_pairs: bool
    label_type: LabelType = "str"
    """Type of the labels in JSONL; see `typed_labels`."""
    threshold: Threshold = None
    """The model's, where it has one; see `predict_class`. Where a text may have any number of classes, its answer is
    the list of these, in CSV as JSON; JSONL also has their probabilities."""
    min_confidence: float | None = None
    """The model's, where it has one: an answer of less probability is null, in CSV empty."""
    min_set_probability: float | None = None
    """Where prediction sets are written, the least probability of a class in them."""
    with_probabilities: bool = False
    """Whether to write the probability of every class, not of the answer alone."""
    top_k: int | None = None
    """Of how many classes, the most probable ones, the probabilities are written, in CSV as JSON."""
    columns: tuple[str, ...] = ()
    """Other columns of the input that are kept; in JSONL every answer has its own."""
    escaped: bool = False
    """Whether CSV is for a terminal, which obeys control characters. JSONL always escapes them."""

    def header(self) -> bytes:
        """Return what comes before the first answer."""
        if self.format != "csv":
            return b""
        line, *ours = self._fields
        if self.with_probabilities:
            ours += [f"probability_{label}" for label in self.labels]
        return self._csv([(line, *_renamed(self.columns, (line, *ours)).values(), *ours)])

    def answers(
        self, texts: Sequence[Text], probabilities: npt.NDArray[np.float32], cut: Sequence[bool | None]
    ) -> bytes:
        """Write a line (in CSV, a record) for each text, whose `probabilities` are (texts, classes).

        JSONL says of each text whether it was `cut`; None: not known.
        """
        places = predict_class(probabilities, self.threshold)
        is_csv = self.format == "csv"
        labels = self.labels if is_csv else typed_labels(self.labels, self.label_type).tolist()
        rounded = _rounded(probabilities) if self._writes_all else [()] * len(texts)
        given = zip(*self._given(probabilities, rounded, places, labels), strict=True)
        rows = zip(texts, rounded, given, strict=True)
        if is_csv:
            return self._csv([self._record(*row) for row in rows])
        lines = (self._json(*row, is_cut=is_cut) for row, is_cut in zip(rows, cut, strict=True))
        return printable("".join(lines)).encode()

    def _given(
        self,
        probabilities: npt.NDArray[np.float32],
        rounded: Sequence[Sequence[float]],
        places: npt.NDArray[np.int64],
        labels: Sequence[Any],
    ) -> list[list[Any]]:
        """Return what is written of each text's answer, `places`, a list for each of the last of `_fields`."""
        if isinstance(self.threshold, tuple):
            shares = [
                {self.labels[one]: row[one] for one in np.flatnonzero(chosen).tolist()}
                for row, chosen in zip(rounded, places, strict=True)
            ]
            shares = shares if self.top_k is None else self._most_probable(probabilities, rounded)
            return [named(places, labels), *([shares] if "probabilities" in self._fields else [])]
        unsure = abstains(probabilities, places, self.min_confidence)
        of_answers = np.take_along_axis(probabilities, places[:, None], axis=1)[:, 0]
        given: list[list[Any]] = [named(places, labels, unsure), _rounded(of_answers)]
        if self.min_set_probability is not None:
            given.append(prediction_sets(probabilities, labels, self.min_set_probability))
        if self.top_k is not None:
            given.append(self._most_probable(probabilities, rounded))
        return given

    def _most_probable(
        self, probabilities: npt.NDArray[np.float32], rounded: Sequence[Sequence[float]]
    ) -> list[dict[str, float]]:
        """Return the most probable classes of each text with their probabilities, in descending order."""
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top_k].tolist()
        return [{self.labels[one]: row[one] for one in first} for row, first in zip(rounded, order, strict=True)]

    def describe(self) -> str:
        """Return what is written beside labels and their probabilities, as a resumed task has to."""
        parts = " with all probabilities" if self.with_probabilities else ""
        parts += "" if self.top_k is None else f" with the first {self.top_k} probabilities"
        parts += "" if self.min_confidence is None else f", labels from {self.min_confidence} on"
        return parts + ("" if self.min_set_probability is None else f", sets from {self.min_set_probability} on")

    @property
    def _writes_all(self) -> bool:
        """Whether other probabilities than the answer's are written."""
        return self.with_probabilities or self.top_k is not None or isinstance(self.threshold, tuple)

    @cached_property
    def _fields(self) -> tuple[str, ...]:
        possible = () if self.min_set_probability is None else ("set",)
        answer: tuple[str, ...] = ("label", "probability", *possible)
        if isinstance(self.threshold, tuple):
            answer = ("labels",) if self.format == "csv" else ("labels", "probabilities")
        if self.top_k is not None and "probabilities" not in answer:
            answer = (*answer, "probabilities")
        return ("line", "text", *(("pair",) if self.in_pairs else ()), *answer)

    def _record(self, text: Text, row: Sequence[float], given: tuple[object, ...]) -> tuple[object, ...]:
        others = (cell(text.others.get(column)) for column in self.columns)
        every = row if self.with_probabilities else ()
        return (text.line, *others, *_parts(text.value), *map(cell, given), *every)

    def _json(self, text: Text, row: Sequence[float], given: tuple[object, ...], *, is_cut: bool | None) -> str:
        values = (text.line, *_parts(text.value), *given)
        answer: dict[str, object] = dict(zip(self._fields, values, strict=True))
        if self.with_probabilities:
            answer["probabilities"] = dict(zip(self.labels, row, strict=True))
        answer["truncated"] = is_cut
        if text.others:
            names = _renamed(tuple(text.others), tuple(answer))
            answer |= {names[name]: value for name, value in text.others.items()}
        return f"{_encode(answer)}\n"

    def _csv(self, rows: Sequence[Sequence[object]]) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        content = text.getvalue()
        return (printable(content) if self.escaped else content).encode("utf-8", "backslashreplace")


def _rounded(probabilities: npt.NDArray[np.float32]) -> list[Any]:
    """Round probabilities, to lists of floats."""
    rounded: list[Any] = probabilities.astype(np.float64).round(DIGITS).tolist()
    return rounded


@lru_cache(maxsize=64)
def _renamed(columns: tuple[str, ...], taken: tuple[str, ...]) -> dict[str, str]:
    """Name the input's columns so that none is called like a part of the answer: `label` becomes `input_label`."""
    names: dict[str, str] = {}
    for column in columns:
        name = column
        while name in taken or (name != column and name in (*columns, *names.values())):
            name = f"input_{name}"
        names[column] = name
    return names


def cell(value: object) -> object:
    """Write a value of JSON as a cell of CSV."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | dict | list) else value


def _parts(value: str | tuple[str, str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class Progress:
    """How far a task has come."""

    task: str
    """What decides the answers beside the input: model, formats, columns."""
    read: Position = BEGINNING
    """Up to where the input has been answered or skipped."""
    written: int = 0
    """Bytes of answers to it."""
    answered: int = 0
    """Texts answered."""
    broken: int = 0
    """Lines that could not be read."""
    cut: int = 0
    """Texts of which the end was not read."""
    abstained: int = 0
    """Of the texts answered, those whose label is left open."""
    columns: tuple[str, ...] | None = None
    """Other columns of the input that a CSV file of answers has; None: its header is not written yet."""


class AnswerStream:
    """Answers that are handed on at once, to a terminal or a pipe; they can't be resumed."""

    def __init__(self, stream: BinaryIO) -> None:
        self.progress = Progress("")
        self._stream = stream

    def append(self, content: bytes, progress: Progress) -> None:
        """Write and flush, so that the reader at the other end gets what there is.

        Raises:
            ArtifactError: The system refuses.
            BrokenPipeError: The reader has gone.
        """
        try:
            self._stream.write(content)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ArtifactError(
                f"standard output can't be written: {error.strerror or error}\n"
                f"  what to do: make room, or name a file with --out, which can be resumed"
            ) from None
        self.progress = replace(progress, written=self.progress.written + len(content))

    def finish(self) -> None:
        """Do nothing: the stream stays open."""


class AnswerFile:
    """A file of answers that gets its name when it is complete.

    Until then the answers are in `NAME.part`, and `NAME.part.json` notes how far they go. Answers are written before
    the note: what an interruption leaves in `NAME.part` beyond the noted length is cut off, and answered again.
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
                self._save(Progress(task))  # before the answers: a `.part` without a note can't be resumed
                _create(self._part).close()
            with ExitStack() as closing:  # where anything is refused
                self._file = closing.enter_context(os.fdopen(os.open(self._part, os.O_RDWR | _NO_LINK), "r+b"))
                self._lock()
                require_absent(path)  # another process may have ended the task meanwhile
                self.progress = self._begun(task)
                self._file.truncate(self.progress.written)
                self._file.seek(self.progress.written)
                closing.pop_all()
        except OSError as error:
            raise ArtifactError(f"{path} can't be written: {error}\n  what to do: name another --out") from None

    def append(self, content: bytes, progress: Progress) -> None:
        """Write answers, then note how far they go; an `ArtifactError` leaves what was noted before."""
        with os_errors(self._path):
            self._file.write(content)
            self._file.flush()
            os.fsync(self._file.fileno())  # the note must not survive a power cut that its answers don't
            self.progress = replace(progress, written=self._file.tell())
            self._save(self.progress)

    def finish(self) -> None:
        """Give the file its name."""
        with os_errors(self._path):
            self._file.close()
            self._part.replace(self._path)
            self._note.unlink()

    def _lock(self) -> None:
        """Lock the file against other processes, where the system can; refuse a link or a device."""
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise ArtifactError(
                f"{self._part}: expected a plain file, found a link or a device\n  what to do: remove it"
            )
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(
                f"{self._path}: expected no other process to write these answers, found one\n"
                f"  what to do: wait for its end, or name another --out"
            ) from None
        except OSError:
            pass  # a file system without locks

    def _begun(self, task: str) -> Progress:
        """Read how far an interrupted run came."""
        remedy = f"what to do: name another --out, or remove {self._part} to begin anew"
        try:
            values = json.loads(self._note.read_text(encoding="utf-8"))
            columns = values["columns"] and tuple(values["columns"])
            progress = Progress(**values | {"read": Position(*values["read"]), "columns": columns})
            size = self._part.stat().st_size
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"{self._note} does not say how far {self._part} goes: {error!r}\n  {remedy}") from None
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
        temporary.unlink(missing_ok=True)
        with _create(temporary) as file:
            file.write(json.dumps(asdict(progress)).encode())
        sync(temporary)
        temporary.replace(self._note)


Answers = AnswerStream | AnswerFile
"""Where answers go."""

_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
"""Refuses to open a link, which another user may have put there to a file of ours."""


def _create(path: Path) -> BinaryIO:
    """Create a file; one that is there already is neither opened nor followed."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666), "wb")


def require_absent(path: Path) -> None:
    """Refuse to overwrite anything.

    Raises:
        ArtifactError: `path` exists.
    """
    if path.exists():
        raise ArtifactError(f"{path} is there already\n  what to do: name another --out, or remove it")
