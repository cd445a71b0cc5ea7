"""`potstill predict`: a saved model's answers to any number of texts. A student needs no torch for it."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click
import numpy as np
from numpy.typing import NDArray

from potstill.cli.options import runtime_options, runtime_settings
from potstill.errors import DataError
from potstill.runtime import Classifier
from potstill.runtime.answers import (
    ANSWER_FORMATS,
    AnswerFile,
    AnswerFormat,
    Answers,
    AnswerStream,
    Progress,
    Writing,
    require_absent,
)
from potstill.runtime.directory import StudentFiles, find_student, is_teacher
from potstill.runtime.seal import undisturbed
from potstill.runtime.stream import (
    FORMATS,
    Broken,
    Format,
    Layout,
    Text,
    chunks,
    format_by_suffix,
    from_arguments,
    read,
)
from potstill.wording import numbered

if TYPE_CHECKING:
    from potstill.config import PotstillConfig, RuntimeConfig

_SOME_BROKEN: Final = 3
"""Exit status when all was answered but broken lines: not 1 (it failed) nor 2 (the command line is wrong)."""
_INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""

_REDRAWN: Final = 0.1
"""Seconds between two looks of the progress on a terminal: an eye does not follow more."""
_REPEATED: Final = 10.0
"""Seconds between two lines of progress elsewhere: a log file is not to be filled with them."""


@dataclass(frozen=True)
class _Model:
    """What answering needs of a student or a teacher."""

    labels: tuple[str, ...]
    reads_pairs: bool
    probabilities: Callable[[Any], NDArray[np.float32]]
    key: str
    """Digest of what decides its answers."""
    threshold: float | None = None
    """See `decide`."""


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("file", required=False, type=click.File("rb"))
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text to classify; may be given several times.")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where the answers go; without it, to standard output. It gets its name when it is complete. Until then it is "
    "FILE.part, and the same command goes on where an interrupted one stopped.",
)
@click.option(
    "--input-format",
    type=click.Choice(FORMATS),
    help="How FILE is read.  [default: by its suffix; text where that is none of these]",
)
@click.option(
    "--output-format",
    type=click.Choice(ANSWER_FORMATS),
    help="How answers are written.  [default: csv where --out ends so, else jsonl]",
)
@click.option("--text-column", metavar="NAME", help="Column with the text.  [default: the configuration's, else text]")
@click.option(
    "--pair-column", metavar="NAME", help="Column with the second text.  [default: the configuration's, else none]"
)
@click.option("--strict", is_flag=True, help="Stop at the first broken line instead of passing over it.")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file whose part `runtime` says where a teacher computes, and whose part `data` names the columns; flags "
    "go over it.",
)
@click.option("--int8", is_flag=True, help="Take a student's 8-bit variant, which `potstill export` writes.")
@runtime_options
def predict(
    model: Path,
    file: BinaryIO | None,
    texts: tuple[str, ...],
    out: Path | None,
    input_format: Format | None,
    output_format: AnswerFormat | None,
    text_column: str | None,
    pair_column: str | None,
    strict: bool,
    config_file: Path | None,
    int8: bool,
    device: str | None,
    precision: str | None,
) -> None:
    """Classify the texts of FILE (- for standard input), or each --text, with MODEL.

    MODEL is a student's or teacher's directory, or a run directory, whose best distilled student is taken. FILE may be
    of any size: a text a line, or CSV, TSV or JSONL with a column of texts. For each text, in order, an answer is
    written: its line, the text, its label, that label's probability. A model of pairs takes both texts with a tab
    between, or a second column.

    Broken lines (no UTF-8, no JSON, a column or field missing, no text) are told on standard error and passed over.

    Exit status: 0 all answered; 3 all but broken lines; 1 an error (with --strict, a broken line); 130 interrupted.
    """
    _check_usage(file, texts, out)
    config = None if config_file is None else _load_config(config_file)
    opened = _open(model, lambda: runtime_settings(device, precision, config), int8=int8)
    answer_format = output_format or _answer_format(out)
    writing = Writing(answer_format, opened.labels, opened.reads_pairs, opened.threshold)
    stdout = sys.stdout.buffer  # bytes: answers are UTF-8, whatever the terminal's encoding
    if file is None:
        items = from_arguments(texts, in_pairs=opened.reads_pairs)
        _classify(items, opened, writing, AnswerStream(stdout), _Report("--text"), strict=True)
        return
    name = "standard input" if file.name == "<stdin>" else file.name
    source: Format = input_format or format_by_suffix(Path(name))
    layout = Layout(source, opened.reads_pairs, _columns(source, opened, text_column, pair_column, config))
    task = f"model {opened.key}, {' '.join((source, *layout.columns))} to {writing.format}"
    answers: Answers = AnswerStream(stdout) if out is None else AnswerFile(out, task)
    items = read(file, layout, name, start=answers.progress.read)
    try:
        with _Meter(name, answers.progress) as report:
            _classify(items, opened, writing, answers, report, strict=strict)
    except KeyboardInterrupt:
        click.echo("interrupted" + ("" if out is None else "; the same command goes on from here"), err=True)
        sys.exit(_INTERRUPTED)
    if answers.progress.broken:
        sys.exit(_SOME_BROKEN)


def _check_usage(file: BinaryIO | None, texts: tuple[str, ...], out: Path | None) -> None:
    """Refuse, before a model is loaded, what can't go well."""
    if (file is None) == (not texts):
        raise click.UsageError("give either FILE (- for standard input) or --text")
    if out is not None:
        if file is None:
            raise click.UsageError("--out goes with FILE; answers to --text are printed")
        if out == Path("-"):
            raise click.UsageError("leave --out out for standard output")
        require_absent(out)


def _load_config(file: Path) -> PotstillConfig:
    from potstill.config import PotstillConfig

    return PotstillConfig.load(file)


def _open(model: Path, runtime: Callable[[], RuntimeConfig], *, int8: bool) -> _Model:
    """Load a student without torch; only a teacher brings it in, and with it the settings."""
    if is_teacher(model):
        if int8:
            raise click.UsageError("--int8 goes with students; a teacher has no 8-bit variant")
        from potstill.models import TeacherModel
        from potstill.teacher import Teacher

        teacher = Teacher.load(model, runtime())
        judge = TeacherModel(teacher)
        return _Model(judge.label_names, judge.reads_pairs, judge.probabilities, teacher.key())
    directory = find_student(model)
    with undisturbed(directory):  # so that the digest is that of what was loaded
        classifier = Classifier.load(directory, int8=int8)
        key = _digest(directory, int8=int8)
    return _Model(classifier.labels, classifier.reads_pairs, classifier.predict_proba, key, classifier.threshold)


def _digest(student: Path, *, int8: bool) -> str:
    files = StudentFiles(student)
    state = hashlib.blake2b(digest_size=16)
    for file in (files.manifest, files.tokenizer, files.int8_model if int8 else files.model):
        state.update(hashlib.blake2b(file.read_bytes()).digest())
    return state.hexdigest()


def _answer_format(out: Path | None) -> AnswerFormat:
    return "csv" if out is not None and out.suffix.lower() == ".csv" else "jsonl"


def _columns(
    source: Format, model: _Model, text_column: str | None, pair_column: str | None, config: PotstillConfig | None
) -> tuple[str, ...]:
    """Name the columns to read: the flags' own, else the configuration's, else `text`."""
    if source == "text":
        if text_column or pair_column:
            raise click.UsageError("plain text has no columns: name the format with --input-format")
        return ()
    text = text_column or (config.data.text_column if config else "text")
    pair = pair_column or (config.data.pair_column if config and model.reads_pairs else None)
    if model.reads_pairs and pair is None:
        raise click.UsageError("this model classifies pairs of texts: name the second text's column with --pair-column")
    if pair is not None and not model.reads_pairs:
        raise click.UsageError("this model classifies single texts: leave --pair-column out")
    return (text,) if pair is None else (text, pair)


class _Report:
    """What a user is told beside the answers: of each broken line, and nothing more."""

    def __init__(self, name: str) -> None:
        self.name = name

    def tell(self, broken: Broken) -> None:
        """Say what is wrong with a line."""
        click.echo(f"{self.name}:{broken.line}: {broken.problem}", err=True)

    def update(self, progress: Progress) -> None:
        """Take note of how far it has come."""


class _Meter(_Report):
    """Tells the rate too: in one line of a terminal that is written over, elsewhere in a new line now and then."""

    def __init__(self, name: str, begun: Progress) -> None:
        super().__init__(name)
        self._begun = self._latest = begun
        self._size = Path(name).stat().st_size if Path(name).is_file() else None
        self._on_terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last word standing."""
        self._erase()
        click.echo(self._line(), err=True)

    def tell(self, broken: Broken) -> None:
        """Say what is wrong with a line, in a line of its own."""
        self._erase()
        super().tell(broken)

    def update(self, progress: Progress) -> None:
        """Show how far it has come, unless that was shown a moment ago."""
        self._latest = progress
        now = time.monotonic()
        if now - self._shown >= (_REDRAWN if self._on_terminal else _REPEATED):
            self._shown = now
            self._erase()
            click.echo(self._line(), err=True, nl=not self._on_terminal)

    def _erase(self) -> None:
        if self._on_terminal:
            click.echo("\r\x1b[K", err=True, nl=False)

    def _line(self) -> str:
        answered, broken, read_until = self._latest.answered, self._latest.broken, self._latest.read.offset
        rate = (answered - self._begun.answered) / max(time.monotonic() - self._started, 1e-9)
        share = f"{read_until / self._size:.0%}, " if self._size else ""
        return f"{self.name}: {share}{numbered(answered, 'text')} answered, {broken:,} broken, {rate:,.0f} texts/s"


def _classify(
    items: Iterable[Text | Broken], model: _Model, writing: Writing, answers: Answers, report: _Report, *, strict: bool
) -> None:
    """Answer all texts.

    Raises:
        DataError: A line is broken, and `strict`; what stands before it is answered.
    """
    if not answers.progress.written:
        answers.append(writing.header(), answers.progress)
    for chunk in chunks(items):
        refused = next((item for item in chunk if isinstance(item, Broken)), None) if strict else None
        _answer(chunk if refused is None else chunk[: chunk.index(refused)], model, writing, answers, report)
        if refused is not None:
            raise DataError(refused.problem, file=report.name, line=refused.line, remedy="correct it, or leave it out")
    answers.finish()


def _answer(items: Sequence[Text | Broken], model: _Model, writing: Writing, answers: Answers, report: _Report) -> None:
    """Answer the texts among `items`, and tell of the rest."""
    if not items:
        return
    texts = [item for item in items if isinstance(item, Text)]
    content = writing.answers(texts, model.probabilities([text.value for text in texts])) if texts else b""
    before = answers.progress
    answers.append(
        content,
        replace(
            before,
            read=items[-1].end,
            answered=before.answered + len(texts),
            broken=before.broken + len(items) - len(texts),
        ),
    )
    for item in items:
        if isinstance(item, Broken):
            report.tell(item)
    report.update(answers.progress)
