"""`potstill evaluate`: scores of saved models on labelled text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np
from click.core import ParameterSource

from potstill.cli.settings import COMPUTING, SettingsCommand, with_settings
from potstill.config import PotstillConfig
from potstill.errors import ArtifactError, PotstillError

if TYPE_CHECKING:
    from potstill.data import Corpus, Examples
    from potstill.evaluation import McNemar
    from potstill.models import Measurement, TrainingRecord
    from potstill.report.tables import ResultTable


_EVERYWHERE: Final = ("auto", "cola", "embedded")
"""Data that is on this machine though no file is named."""


@dataclass(frozen=True)
class _Row:
    """One model: what is known of its training, what it scored, and how it compares with another one."""

    name: str
    directory: Path
    record: TrainingRecord | None
    measured: Measurement
    verdict: str | None
    opponent: str | None
    mcnemar: McNemar | None

    def to_json(self) -> dict[str, Any]:
        """Return all but the single answers."""
        record = {} if self.record is None else asdict(self.record)
        return {
            "model": str(self.directory),
            **{name: value for name, value in record.items() if name != "best"},
            "sentences_per_second": self.measured.sentences_per_second,
            "metrics": asdict(self.measured.metrics),
            "intervals": self.measured.intervals,
            "calibration": asdict(self.measured.calibration),
            "verdict": self.verdict,
            "compared_with": self.opponent,
            "mcnemar": None if self.mcnemar is None else asdict(self.mcnemar),
        }


@click.command(cls=SettingsCommand)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@with_settings("data", *COMPUTING, defaults={"data.source": "what the first model was trained on, else auto"})
def evaluate(config: PotstillConfig, models: tuple[Path, ...], as_json: bool) -> None:
    """Score saved MODELS (model or run directories) on labelled text.

    Scored is the file of --evaluation-data if one is given; else the whole of --data where that is a file, and the
    held-out part where it is a data set; without these and --config, the held-out part of what the first model was
    trained on, as the settings beside it say (an exported student has none). McNemar's test compares a run's distilled
    students with the baseline of the same seed, and any other model with the first one.
    """
    from potstill.models import corpus_key, measure, model_directories, open_model
    from potstill.report.tables import classes

    directories = [directory for path in models for directory in model_directories(path)]
    model = open_model(directories[0], config.runtime)
    names = model.label_names
    own = _own_corpus(directories[0]) if _asks_for_own_data() else None
    if own is not None:
        examples, scored = own.evaluation, _held_out(own)
        _warn_of_known(examples, [other for other in directories if corpus_key(other) != own.key()])
    else:
        examples, scored = _examples(config, names)
        _warn_of_known(examples, directories)
    measured = [measure(model, examples)]
    for directory in directories[1:]:
        model = open_model(directory, config.runtime)
        if model.label_names != names:
            raise ArtifactError(
                f"expected models of the same classes, found {classes(names)} in {directories[0]} and "
                f"{classes(model.label_names)} in {directory}\n  what to do: evaluate them one by one"
            )
        measured.append(measure(model, examples))
    majority = names[int(np.bincount(examples.labels).argmax())]
    rows = _rows(directories, measured, examples, majority)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        _show(rows, scored, majority)


def _examples(config: PotstillConfig, label_names: tuple[str, ...]) -> tuple[Examples, str]:
    """Read what is to be scored, and say in words what that is."""
    from potstill.data import load_corpus, read_examples
    from potstill.report.tables import classes

    file = Path(config.data.evaluation or config.data.source).expanduser()
    if file.is_file():
        return read_examples(file, config.data, label_names), f"all of {file}"
    corpus = load_corpus(config.data)
    if not corpus.has_classes(label_names):
        raise ArtifactError(
            f"the model knows the classes {classes(label_names)}, {corpus.name} has {classes(corpus.label_names)}\n"
            f"  what to do: name data of the model's own task with --data"
        )
    return corpus.evaluation, _held_out(corpus)


def _held_out(corpus: Corpus) -> str:
    return f"the held-out part of {corpus.name} ({corpus.source})"


def _asks_for_own_data() -> bool:
    """Say whether neither the command line nor a configuration names what is to be scored.

    Raises:
        click.UsageError: It says how data is read, but not which.
    """
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if given & {"config_file", "data__source", "data__evaluation"}:
        return False
    if unclear := {name for name in given if name.startswith("data__")}:
        flags = ", ".join(option.opts[0] for option in context.command.params if option.name in unclear)
        raise click.UsageError(f"{flags}: expected the data to read so; name it with --data")
    return True


def _own_corpus(model: Path) -> Corpus | None:
    """Read the data that a model was trained on; None where no settings say which that was.

    Raises:
        ArtifactError: It is not what it was, or can't be read.
    """
    from potstill.data import load_corpus
    from potstill.models import corpus_key, settings_file

    if (file := settings_file(model)) is None:
        return None
    found = "it has changed since"
    try:
        corpus = load_corpus(PotstillConfig.load(file).data)
        if corpus_key(model) == corpus.key():
            return corpus
    except PotstillError as error:
        found = str(error).partition("\n")[0]
    raise ArtifactError(
        f"{model}: expected the data that it was trained on, of which the held-out part is scored where none is named; "
        f"found: {found}\n  what to do: name data with --data"
    )


def _warn_of_known(examples: Examples, models: Sequence[Path]) -> None:
    """Warn where what is scored was learnt from, or chosen by; of data on this machine alone: no hub is asked."""
    from potstill.console import silence, warn
    from potstill.data import load_corpus
    from potstill.models import settings_file

    known: set[tuple[str, str | None]] = set()
    for file in {file for model in models if (file := settings_file(model)) is not None}:
        with suppress(PotstillError), silence():
            data = PotstillConfig.load(file).data
            if data.source in _EVERYWHERE or Path(data.source).expanduser().exists():
                own = load_corpus(data)
                known.update(own.train.items, own.selection.items)
    count = sum(item in known for item in examples.items)
    if count:
        warn(
            f"{count:,} of these {len(examples):,} texts trained or selected these models, which flatters the scores; "
            "a model alone, without --data and --config, is scored on the held-out part of its own data"
        )


def _rows(
    directories: Sequence[Path], measured: Sequence[Measurement], examples: Examples, majority: str
) -> list[_Row]:
    from potstill.evaluation import majority_verdict, mcnemar
    from potstill.models import TrainingRecord

    records = [TrainingRecord.find(directory) for directory in directories]
    names = ["/".join(directory.resolve().parts[-2:]) for directory in directories]
    if len(set(names)) < len(names):
        names = [str(directory) for directory in directories]
    rows = []
    for place, directory in enumerate(directories):
        opponent = _opponent(place, directories)
        compared = None
        if opponent is not None:
            compared = mcnemar(examples.labels, measured[place].predictions, measured[opponent].predictions)
        rows.append(
            _Row(
                name=names[place],
                directory=directory,
                record=records[place],
                measured=measured[place],
                verdict=majority_verdict(measured[place].intervals, majority),
                opponent=None if opponent is None else names[opponent],
                mcnemar=compared,
            )
        )
    return rows


def _opponent(place: int, directories: Sequence[Path]) -> int | None:
    """Choose whom a model is compared with: the baseline of its run and seed, else the first model."""
    directory = directories[place]
    baseline = directory.parent.parent / "baseline" / directory.name
    if directory.parent.name == "distilled" and baseline in directories:
        return directories.index(baseline)
    return 0 if place else None


def _show(rows: Sequence[_Row], scored: str, majority: str) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    metrics = rows[0].measured.metrics
    console.print(f"{metrics.count:,} texts, {scored}", soft_wrap=True)
    for table in (_scores(rows, majority), _costs(rows)):
        console.print(table.to_plain())
    console.print("[low, high]: 95 % bootstrap interval. p: McNemar's test of the number of right answers.")
    for row in rows:
        if row.verdict:
            console.print(f"{row.name}: {row.verdict}", style="yellow")


def _scores(rows: Sequence[_Row], majority: str) -> ResultTable:
    from potstill.report.tables import EMPTY, Cell, ResultTable, percent, probability, score, score_cells

    def cells(row: _Row) -> tuple[Cell, ...]:
        compared = EMPTY if row.mcnemar is None else Cell(probability(row.mcnemar.p_value), f"to {row.opponent}")
        return (
            Cell(row.name),
            *score_cells(row.measured.metrics, row.measured.intervals),
            compared,
        )

    share = rows[0].measured.metrics.majority_accuracy
    always = (Cell(f'always "{majority}"'), Cell(percent(share)), Cell(score(0.0)), EMPTY, EMPTY)
    return ResultTable(("model", "accuracy", "MCC", "F1", "p"), (*map(cells, rows), always))


def _costs(rows: Sequence[_Row]) -> ResultTable:
    from potstill.report.tables import EMPTY, Cell, ResultTable, duration, magnitude

    def cells(row: _Row) -> tuple[Cell, ...]:
        speed = Cell(f"{row.measured.sentences_per_second:,.0f}")
        if row.record is None:
            return (Cell(row.name), EMPTY, EMPTY, EMPTY, EMPTY, speed)
        return (
            Cell(row.name),
            Cell(magnitude(row.record.parameters)),
            Cell(magnitude(row.record.trainable_parameters)),
            Cell(f"{row.record.bytes_on_disk / 1e6:.1f} MB"),
            Cell(duration(row.record.train_seconds)),
            speed,
        )

    headers = ("model", "parameters", "trainable", "on disk", "training", "sentences/s")
    return ResultTable(headers, tuple(map(cells, rows)))
