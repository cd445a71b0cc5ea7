"""How `potstill predict` answers one file after the other, in this process or in one of several."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from potstill.cli.options import runtime_settings
from potstill.errors import ArtifactError, DataError
from potstill.predict import Classifier, output, stream
from potstill.predict.decision import abstains, predict_class
from potstill.predict.directory import StudentFiles, is_teacher, own_columns
from potstill.predict.encoding import SAMPLE_BYTES, conversion, find_encoding
from potstill.predict.files import ALL_TABLES, open_table
from potstill.predict.wording import numbered, printable
from potstill.store.checksums import assert_unchanged, digest

if TYPE_CHECKING:
    from potstill.teacher.base import Teacher

    Model = Classifier | Teacher

STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class Opening:
    """A model's directory, and how it is opened there."""

    directory: Path
    threads: int
    runtime: tuple[tuple[str, str | None], ...]
    abstention: tuple[tuple[str, float | None], ...]

    def open(self) -> tuple[Model, str]:
        """Load a student without torch, or a teacher; returns a digest of what decides its answers, too."""
        if is_teacher(self.directory):
            import torch

            from potstill.teacher.saved import open_teacher

            torch.set_num_threads(self.threads)
            teacher = open_teacher(self.directory, runtime_settings(**dict(self.runtime)))
            return teacher, teacher.key
        with assert_unchanged(self.directory):  # so that the digest is that of what was loaded
            classifier = Classifier.load(self.directory, threads=self.threads, **dict(self.abstention))  # type: ignore[arg-type]
            return classifier, digest(file.read_bytes() for file in StudentFiles(self.directory).needed)


@lru_cache(maxsize=1)
def _open_in_worker(opening: Opening, key: str) -> Model:
    model, found = opening.open()
    if found != key:
        raise ArtifactError(
            f"{opening.directory}: expected the model that this command began with, found another\n"
            "  what to do: repeat the command"
        )
    return model


def _open_file(path: Path) -> AbstractContextManager[BinaryIO]:
    if path == STANDARD_INPUT:
        return nullcontext(sys.stdin.buffer)
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"this can't be read: {error.strerror}", file=path, remedy="check the file") from None


@dataclass(frozen=True)
class AnswerFiles:
    """Answers files, each with the chunks, and so the bytes, that it has alone. Without `model`, it can be pickled."""

    opening: Opening
    key: str
    writing: output.Writing
    input_format: stream.Format | None
    text_column: str | None
    pair_column: str | None
    strict: bool
    model: Model | None
    """None: one of several workers opens it, which all write to the terminal."""

    def __call__(self, item: tuple[Path, Path | None]) -> output.Progress:
        """Answer the texts of a file into another one, or to standard output, and report on standard error.

        Raises:
            ArtifactError: The answers can't be written, or belong to another task.
            DataError: The file can't be read, or a line is broken, and `strict`.
        """
        path, out = item
        model = self.model if self.model is not None else _open_in_worker(self.opening, self.key)
        name = "standard input" if path == STANDARD_INPUT else str(path)
        with _open_file(path) as file:
            opened = open_table(file, name, () if self.input_format else ALL_TABLES)
            source: stream.Format = self.input_format or stream.format_by_suffix(Path(opened.name))
            columns = self._columns(source)
            # Bytes: answers are UTF-8, whatever the terminal's encoding.
            answers: output.Answers = output.AnswerStream(sys.stdout.buffer)
            if out is not None:
                task = f"model {self.key}, {' '.join((source, *columns))} to {self.writing.format}"
                answers = output.AnswerFile(out, task + self.writing.describe())
            layout = stream.Layout(source, model.in_pairs, columns)
            items = stream.read(opened.content, layout, name, start=answers.progress.read)
            size = path.stat().st_size if opened.content is file and path.is_file() else None
            for note in opened.notes:
                click.echo(printable(f"{name}: {note}"), err=True)
            overwrites = self.model is not None and sys.stderr.isatty()
            with closing(Report(name, answers.progress, 0.1 if overwrites else 10.0, size, overwrites)) as report:
                classify(items, model, self.writing, answers, report, strict=self.strict)
        return answers.progress

    def _columns(self, source: stream.Format) -> tuple[str, ...]:
        """Name the columns to read: those of the flags, else those of the training, else `text`."""
        text, pair, in_pairs = self.text_column, self.pair_column, self.writing.in_pairs
        if source == "text":
            if text or pair:
                raise click.UsageError("plain text has no columns: name the format with --input-format")
            return ()
        if pair is not None and not in_pairs:
            raise click.UsageError("this model classifies single texts: leave --pair-column out")
        own_text, own_pair = own_columns(self.opening.directory)
        text = text or own_text or "text"
        if not in_pairs:
            return (text,)
        if (second := pair or own_pair) is None:
            raise click.UsageError(
                "this model classifies pairs of texts: name the second text's column with --pair-column"
            )
        return text, second


class Report:
    """Reports broken lines and progress on standard error, every so many seconds; a terminal's line is overwritten."""

    def __init__(
        self, name: str, begun: output.Progress, seconds: float, size: int | None = None, overwrites: bool = False
    ) -> None:
        self.name = name
        self._begun = self._latest = begun
        self._size = size  # bytes of the stream, if they are known
        self._seconds, self._overwrites = seconds, overwrites
        self._started = self._shown = time.monotonic()
        self.has_lost_columns = False
        self._undecodable = b""

    def update(self, progress: output.Progress) -> None:
        """Note how far it has come."""
        self._latest = progress
        if (now := time.monotonic()) - self._shown >= self._seconds:
            self._shown = now
            self._print(self._line(), end=not self._overwrites)

    def close(self) -> None:
        """Say how far it came, and what could help where lines can't be read."""
        self._print(self._line())
        if self._undecodable:
            self._print(printable(conversion(find_encoding(self._undecodable), self.name)))

    def problem(self, line: int, problem: str, undecodable: bytes = b"") -> None:
        """Report a line that can't be read, or not all of it be written."""
        self._print(printable(f"{self.name}:{line}: {problem}"))
        if len(self._undecodable) < SAMPLE_BYTES:
            self._undecodable += undecodable

    def _print(self, line: str, *, end: bool = True) -> None:
        click.echo(("\r\x1b[K" if self._overwrites else "") + line, err=True, nl=end)

    def _line(self) -> str:
        answered, broken, read_until = self._latest.answered, self._latest.broken, self._latest.read.offset
        rate = (answered - self._begun.answered) / max(time.monotonic() - self._started, 1e-9)
        share = f"{read_until / self._size:.0%}, " if self._size else ""
        cut = f"{self._latest.cut:,} cut at the model's max_length, " if self._latest.cut else ""
        return f"{self.name}: {share}{numbered(answered, 'text')} answered, {cut}{broken:,} broken, {rate:,.0f} texts/s"


def classify(
    items: Iterable[stream.Text | stream.Broken],
    model: Model,
    writing: output.Writing,
    answers: output.Answers,
    report: Report,
    *,
    strict: bool,
) -> None:
    """Answer all texts.

    Raises:
        DataError: A line is broken, and `strict`; the texts before it are answered.
    """
    for chunk in stream.chunks(items, answers.progress.read):
        refused = next((item for item in chunk if isinstance(item, stream.Broken)), None) if strict else None
        _answer(chunk if refused is None else chunk[: chunk.index(refused)], model, writing, answers, report)
        if refused is not None:
            raise refused.error(report.name)
    if answers.progress.columns is None:  # no text was answered
        answers.append(writing.header(), replace(answers.progress, columns=()))
    answers.finish()


def _answer(
    items: Sequence[stream.Text | stream.Broken],
    model: Model,
    writing: output.Writing,
    answers: output.Answers,
    report: Report,
) -> None:
    """Answer the texts among `items`, and report the others."""
    if not items:
        return
    texts = [item for item in items if isinstance(item, stream.Text)]
    broken = [item for item in items if isinstance(item, stream.Broken)]
    before, content = answers.progress, b""
    columns, abstained = before.columns, before.abstained
    cut: Sequence[bool | None] = ()
    if texts:
        if columns is None:  # those of the first text: CSV has to name them before the others are read
            columns = tuple(texts[0].others) if writing.format == "csv" else ()
            content = replace(writing, columns=columns).header()
        values: Any = [one.value for one in texts]
        probabilities, cut = model.answer(values)
        chosen = predict_class(probabilities, writing.threshold)
        abstained += int(abstains(probabilities, chosen, writing.min_confidence).sum())
        content += replace(writing, columns=columns).answers(texts, probabilities, cut)
    answered, skipped = before.answered + len(texts), before.broken + len(broken)
    progress = replace(before, read=items[-1].end, answered=answered, broken=skipped, columns=columns)
    progress = replace(progress, cut=before.cut + sum(map(bool, cut)), abstained=abstained)
    answers.append(content, progress)
    for item in broken:
        report.problem(item.line, item.problem, item.undecodable)
    for text in texts if writing.format == "csv" and not report.has_lost_columns else ():
        if lost := text.others.keys() - set(columns or ()):
            report.has_lost_columns = True
            report.problem(text.line, f"left out of CSV, since the first line lacks it: {', '.join(map(repr, lost))}")
            break
    report.update(answers.progress)
