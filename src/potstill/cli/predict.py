"""`potstill predict`: a saved model's answers to any number of texts. A student needs no torch for it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from potstill.cli.options import MODEL, Abstention, abstention_options, runtime_options, runtime_settings
from potstill.predict import Classifier, output, stream
from potstill.predict.decision import abstains, predict_class
from potstill.predict.directory import StudentFiles, find_student, is_teacher, own_columns
from potstill.predict.encoding import SAMPLE_BYTES, conversion, find_encoding
from potstill.predict.files import ALL_TABLES, open_table
from potstill.predict.hub import local_model
from potstill.predict.session import available_cores
from potstill.predict.wording import numbered, printable
from potstill.store.checksums import assert_unchanged, digest

if TYPE_CHECKING:
    from potstill.teacher.base import Teacher

    Model = Classifier | Teacher


@click.command()
@click.argument("model", type=MODEL)
@click.argument("file", required=False, type=click.File("rb"))
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text to classify; may be given several times.")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to write the answers. After an interruption, repeat the command to resume.  [default: standard output]",
)
@click.option("--text-column", metavar="COLUMN", help="Column with the text.  [default: as in training, else text]")
@click.option("--pair-column", metavar="COLUMN", help="Column with the second text.  [default: as in training]")
@click.option("--probabilities", is_flag=True, help="Write the probability of every class.")
@click.option(
    "--top-k",
    metavar="INT",
    type=click.IntRange(1),
    help="Write the probabilities of so many classes, the most probable ones.",
)
@abstention_options
@click.option(
    "--set-error",
    metavar="SHARE",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Write the set of labels that can't be ruled out, too: the right one is missing from at most this share of "
    "the sets, such as 0.1.",
)
@click.option(
    "--input-format",
    type=click.Choice(stream.FORMATS),
    help="How FILE is read.  [default: by its suffix, else text]",
)
@click.option(
    "--output-format",
    type=click.Choice(output.ANSWER_FORMATS),
    help="How answers are written.  [default: csv if --out ends in .csv, else jsonl]",
)
@click.option("--strict", is_flag=True, help="Stop at the first line that can't be read.")
@click.option(
    "--threads", metavar="INT", type=click.IntRange(1), help="Threads to compute with.  [default: all available cores]"
)
@runtime_options
def predict(
    model: Path | str,
    file: BinaryIO | None,
    texts: tuple[str, ...],
    out: Path | None,
    text_column: str | None,
    pair_column: str | None,
    probabilities: bool,
    top_k: int | None,
    abstention: Abstention,
    set_error: float | None,
    input_format: stream.Format | None,
    output_format: output.AnswerFormat | None,
    strict: bool,
    threads: int | None,
    **runtime: str | None,
) -> None:
    """Classify the texts of FILE (- for standard input), or each --text, with MODEL.

    MODEL is a directory: a run, a student, a teacher, or what `potstill export` wrote. Of a run, `predict` uses the
    student that its report recommends, of the seed with the best validation score. Or it is a model of the Hugging Face
    hub, owner/name or owner/name@revision. FILE may be of any size. It has one
    text a line, or it is .csv, .tsv, .json, .jsonl, .parquet or .xlsx with a column of texts; the answers keep its
    other columns. It may be packed (.gz, .bz2, .xz, .zst, .zip). A model of pairs needs two texts with a tab between,
    or a second column.

    \b
      potstill predict runs/NAME --text "Hello"
      potstill predict runs/NAME tickets.csv --out answers.csv

    Each answer has the line, the text, its label and that label's probability, in the order of FILE; of a model of
    texts with several labels, the list of these. A line that can't be read is reported on standard error and skipped.
    With --coverage or --max-error, a student leaves the label open (null, in CSV empty) where it is not sure enough:
    ask a person, or the teacher.

    Exit status: 0 all lines are answered; 3 some lines could not be read; 1 an error; 2 a wrong command line; 130
    interrupted.
    """
    if (file is None) == (not texts):
        raise click.UsageError("give either FILE (- for standard input) or --text")
    if probabilities and top_k is not None:
        raise click.UsageError("give either --probabilities or --top-k")
    if out is not None:
        if file is None or out == Path("-"):
            raise click.UsageError("--out is a file for the answers to FILE; without it they are printed")
        output.require_absent(out)
    path = local_model(model)
    directory = path if is_teacher(path) else find_student(path)
    opened, key = _open(directory, runtime, threads or available_cores(), abstention)
    writing = output.Writing(
        output_format or ("csv" if out is not None and out.suffix.lower() == ".csv" else "jsonl"),
        opened.label_names,
        opened.in_pairs,
        opened.label_type,
        with_probabilities=probabilities,
        top_k=top_k,
        escaped=out is None and sys.stdout.isatty(),
    )
    writing = _as_decided(writing, opened, set_error, abstention)
    # Bytes: answers are UTF-8, whatever the terminal's encoding.
    answers: output.Answers = output.AnswerStream(sys.stdout.buffer)
    if file is None:
        items = stream.from_arguments(texts, in_pairs=opened.in_pairs)
        _classify(items, opened, writing, answers, _Report("--text", answers.progress, math.inf), strict=True)
        _say_abstained(answers.progress, writing)
        return
    name = "standard input" if file.name == "<stdin>" else file.name
    opened_file = open_table(file, name, () if input_format else ALL_TABLES)
    source: stream.Format = input_format or stream.format_by_suffix(Path(opened_file.name))
    columns = _columns(source, opened.in_pairs, directory, text_column, pair_column)
    layout = stream.Layout(source, opened.in_pairs, columns)
    if out is not None:
        task = f"model {key}, {' '.join((source, *columns))} to {writing.format}"
        answers = output.AnswerFile(out, task + writing.describe())
    items = stream.read(opened_file.content, layout, name, start=answers.progress.read)
    size = Path(name).stat().st_size if opened_file.content is file and Path(name).is_file() else None
    report = _Report(name, answers.progress, 0.1 if sys.stderr.isatty() else 10.0, size)
    for note in opened_file.notes:
        click.echo(printable(f"{name}: {note}"), err=True)
    try:
        with closing(report):
            _classify(items, opened, writing, answers, report, strict=strict)
    except KeyboardInterrupt:
        click.echo("interrupted" + ("" if out is None else "; repeat the command to resume"), err=True)
        sys.exit(130)  # as after Ctrl-C in a shell
    _say_abstained(answers.progress, writing)
    if answers.progress.broken:
        sys.exit(3)  # not 1 (it failed) nor 2 (the command line is wrong)


def _open(
    directory: Path, runtime: Mapping[str, str | None], threads: int, abstention: Abstention
) -> tuple[Model, str]:
    """Load a student without torch, or a teacher; returns a digest of what decides its answers, too."""
    if is_teacher(directory):
        import torch

        from potstill.teacher.saved import open_teacher

        torch.set_num_threads(threads)
        teacher = open_teacher(directory, runtime_settings(**runtime))
        return teacher, teacher.key
    with assert_unchanged(directory):  # so that the digest is that of what was loaded
        classifier = Classifier.load(directory, threads=threads, **abstention)
        return classifier, digest(file.read_bytes() for file in StudentFiles(directory).needed)


def _as_decided(
    writing: output.Writing, model: Model, set_error: float | None, abstention: Abstention
) -> output.Writing:
    """Let answers be written as the model decides; a teacher always answers."""
    if isinstance(model, Classifier):
        in_sets = None if set_error is None else model.min_set_probability(set_error)
        return replace(
            writing, threshold=model.threshold, min_confidence=model.min_confidence, min_set_probability=in_sets
        )
    if set_error is not None or any(abstention.values()):
        raise click.UsageError("a teacher answers every text: --coverage, --max-error and --set-error need a student")
    return replace(writing, threshold=model.threshold)


def _say_abstained(progress: output.Progress, writing: output.Writing) -> None:
    """Say how many texts have no answer, and what to do with them."""
    if writing.min_confidence is not None:
        click.echo(
            f"{progress.abstained:,} of {numbered(progress.answered, 'text')} have no label: the model is less than "
            f"{writing.min_confidence:.2%} sure of them"
            + ("; ask a person, or a larger model such as the teacher" if progress.abstained else ""),
            err=True,
        )


def _columns(source: stream.Format, in_pairs: bool, model: Path, text: str | None, pair: str | None) -> tuple[str, ...]:
    """Name the columns to read: those of the flags, else those of the training, else `text`."""
    if source == "text":
        if text or pair:
            raise click.UsageError("plain text has no columns: name the format with --input-format")
        return ()
    if pair is not None and not in_pairs:
        raise click.UsageError("this model classifies single texts: leave --pair-column out")
    own_text, own_pair = own_columns(model)
    text = text or own_text or "text"
    if not in_pairs:
        return (text,)
    if (second := pair or own_pair) is None:
        raise click.UsageError("this model classifies pairs of texts: name the second text's column with --pair-column")
    return text, second


class _Report:
    """Reports broken lines and progress on standard error, every so many seconds; a terminal's line is overwritten."""

    def __init__(self, name: str, begun: output.Progress, seconds: float, size: int | None = None) -> None:
        self.name = name
        self._begun = self._latest = begun
        self._size = size  # bytes of the stream, if they are known
        self._seconds = seconds
        self._started = self._shown = time.monotonic()
        self.has_lost_columns = False
        self._undecodable = b""

    def update(self, progress: output.Progress) -> None:
        self._latest = progress
        if (now := time.monotonic()) - self._shown >= self._seconds:
            self._shown = now
            self._print(self._line(), end=not sys.stderr.isatty())

    def close(self) -> None:
        self._print(self._line())
        if self._undecodable:
            self._print(printable(conversion(find_encoding(self._undecodable), self.name)))

    def problem(self, line: int, problem: str, undecodable: bytes = b"") -> None:
        self._print(printable(f"{self.name}:{line}: {problem}"))
        if len(self._undecodable) < SAMPLE_BYTES:
            self._undecodable += undecodable

    def _print(self, line: str, *, end: bool = True) -> None:
        click.echo(("\r\x1b[K" if sys.stderr.isatty() else "") + line, err=True, nl=end)

    def _line(self) -> str:
        answered, broken, read_until = self._latest.answered, self._latest.broken, self._latest.read.offset
        rate = (answered - self._begun.answered) / max(time.monotonic() - self._started, 1e-9)
        share = f"{read_until / self._size:.0%}, " if self._size else ""
        cut = f"{self._latest.cut:,} cut at the model's max_length, " if self._latest.cut else ""
        return f"{self.name}: {share}{numbered(answered, 'text')} answered, {cut}{broken:,} broken, {rate:,.0f} texts/s"


def _classify(
    items: Iterable[stream.Text | stream.Broken],
    model: Model,
    writing: output.Writing,
    answers: output.Answers,
    report: _Report,
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
    report: _Report,
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
