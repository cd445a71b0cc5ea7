"""`potstill predict`: a saved model's answers to any number of texts. A student needs no torch for it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from potstill.cli.answering import STANDARD_INPUT, AnswerFiles, Opening, Report, classify
from potstill.cli.options import MODEL, Abstention, abstention_options, runtime_options
from potstill.executor import make_executor
from potstill.predict import Classifier, output, stream
from potstill.predict.directory import find_student, is_teacher
from potstill.predict.files import named_files
from potstill.predict.hub import local_model
from potstill.predict.output_directory import answer_files
from potstill.predict.session import available_cores
from potstill.predict.wording import numbered

if TYPE_CHECKING:
    from potstill.cli.answering import Model


def _files(_: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[Path, ...]:
    """Find the files that are given by their paths, or by patterns."""
    found: dict[Path, None] = {}
    for source in given:
        files = [STANDARD_INPUT] if source == "-" else named_files(source)
        if not files:
            remedy = f"; for the files of a directory, give '{source.rstrip('/')}/*'" if Path(source).is_dir() else ""
            raise click.BadParameter(f"{source!r}: no such file{remedy}", param=option)
        found |= dict.fromkeys(files)
    return tuple(found)


@click.command()
@click.argument("model", type=MODEL)
@click.argument("files", nargs=-1, metavar="[FILE]...", callback=_files)
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text to classify; may be given several times.")
@click.option(
    "--out",
    "out_name",
    metavar="FILE|DIR",
    help="Where to write the answers: a file, or for several FILEs a directory, which gets a file for each; with a / "
    "at its end it is a directory for one FILE, too. After an interruption, repeat the command to resume.  "
    "[default: standard output]",
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
    "--threads",
    metavar="INT",
    type=click.IntRange(1),
    help="Threads of each process.  [default: the available cores, divided by the processes]",
)
@click.option(
    "--workers",
    metavar="INT",
    type=click.IntRange(1),
    help="Processes that answer several FILEs.  [default: one per available core; with a teacher one]",
)
@runtime_options
def predict(
    model: Path | str,
    files: tuple[Path, ...],
    texts: tuple[str, ...],
    out_name: str | None,
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
    workers: int | None,
    **runtime: str | None,
) -> None:
    """Classify the texts of each FILE (- for standard input), or each --text, with MODEL.

    MODEL is a directory: a run, a student, a teacher, or what `potstill export` wrote. Of a run, `predict` uses the
    student that its report recommends, of the seed with the best validation score. Or it is a model of the Hugging Face
    hub, owner/name or owner/name@revision. FILE may be of any size, or a pattern: 'texts/*.csv'. It has one text a
    line, or it is .csv, .tsv, .json, .jsonl, .parquet or .xlsx with a column of texts; the answers keep its
    other columns. It may be packed (.gz, .bz2, .xz, .zst, .zip). A model of pairs needs two texts with a tab between,
    or a second column.

    \b
      potstill predict runs/NAME --text "Hello"
      potstill predict runs/NAME tickets.csv --out answers.csv
      potstill predict runs/NAME 'shards/*.parquet' --out answers/

    Each answer has the line, the text, its label and that label's probability, in the order of FILE; of a model of
    texts with several labels, the list of these. A line that can't be read is reported on standard error and skipped.
    With --coverage or --max-error, a student leaves the label open (null, in CSV empty) where it is not sure enough:
    ask a person, or the teacher.

    Exit status: 0 all lines are answered; 3 some lines could not be read, of several FILEs in those that this call
    answered; 1 an error; 2 a wrong command line; 130 interrupted.
    """
    if probabilities and top_k is not None:
        raise click.UsageError("give either --probabilities or --top-k")
    out = None if out_name is None else Path(out_name)
    several = _answers_several(files, texts, out, is_directory=(out_name or "").endswith("/"))
    path = local_model(model)
    directory = path if is_teacher(path) else find_student(path)
    workers = min(len(files) or 1, workers or (1 if is_teacher(directory) else available_cores()))
    opening = Opening(
        directory,
        threads or max(1, available_cores() // workers),
        tuple(runtime.items()),
        (("coverage", abstention["coverage"]), ("max_error", abstention["max_error"])),
    )
    opened, key = opening.open()
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
    if texts:
        answers = output.AnswerStream(sys.stdout.buffer)
        items = stream.from_arguments(texts, in_pairs=opened.in_pairs)
        classify(items, opened, writing, answers, Report("--text", answers.progress, math.inf), strict=True)
        _say_abstained([answers.progress], writing)
        return
    work = AnswerFiles(
        *(opening, key, writing, input_format, text_column, pair_column, strict),
        model=opened if workers == 1 else None,
    )
    items_left: Sequence[tuple[Path, Path | None]] = [(files[0], out)]
    if several and out is not None:
        given = (input_format, text_column, pair_column)
        task = ", ".join([f"model {key}", *filter(None, given), f"to {writing.format}{writing.describe()}"])
        items_left = answer_files(out, files, task, writing.format)
        if len(items_left) < len(files):
            click.echo(f"{len(files) - len(items_left):,} of {numbered(len(files), 'file')} answered before", err=True)
    try:
        done = list(make_executor("local", workers).map(work, items_left))
    except KeyboardInterrupt:
        click.echo("interrupted" + ("" if out is None else "; repeat the command to resume"), err=True)
        sys.exit(130)  # as after Ctrl-C in a shell
    _say_abstained(done, writing)
    if any(progress.broken for progress in done):
        sys.exit(3)  # not 1 (it failed) nor 2 (the command line is wrong)


def _answers_several(files: Sequence[Path], texts: Sequence[str], out: Path | None, *, is_directory: bool) -> bool:
    """Say whether `out` is a directory for the answers to files; refuse what does not go together."""
    if bool(files) == bool(texts):
        raise click.UsageError("give either FILE (- for standard input) or --text")
    if out is not None and (texts or out == STANDARD_INPUT):
        raise click.UsageError("--out is a file for the answers to FILE; without it they are printed")
    several = len(files) > 1 or is_directory or (out is not None and out.is_dir())
    if several and (out is None or STANDARD_INPUT in files):
        raise click.UsageError("several FILEs need a directory as --out, and none of them can be standard input")
    if out is not None and not several:
        output.require_absent(out)
    return several


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


def _say_abstained(done: Sequence[output.Progress], writing: output.Writing) -> None:
    """Say how many texts have no answer, and what to do with them."""
    if writing.min_confidence is not None and done:
        abstained, answered = (sum(getattr(one, name) for one in done) for name in ("abstained", "answered"))
        click.echo(
            f"{abstained:,} of {numbered(answered, 'text')} have no label: the model is less than "
            f"{writing.min_confidence:.2%} sure of them"
            + ("; ask a person, or a larger model such as the teacher" if abstained else ""),
            err=True,
        )
