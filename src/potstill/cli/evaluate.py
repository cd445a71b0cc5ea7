"""`potstill evaluate`: scores of saved models on labelled text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from potstill.cli.settings import SettingsCommand, with_settings
from potstill.config import PotstillConfig
from potstill.errors import ArtifactError

if TYPE_CHECKING:
    from rich.table import Table

    from potstill.data import Examples
    from potstill.models import Measurement


@click.command(cls=SettingsCommand)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@with_settings("data", "runtime")
def evaluate(config: PotstillConfig, config_file: Path | None, models: tuple[Path, ...], as_json: bool) -> None:
    """Score saved MODELS (model or run directories) on labelled text.

    --data takes a file (all of it is scored) or a data set, whose held-out part is scored. Several models are compared
    with the first one by McNemar's test.
    """
    from potstill.models import measure, model_directories, open_model

    directories = [directory for path in models for directory in model_directories(path)]
    model = open_model(directories[0], config.runtime)
    names, examples = model.label_names, _examples(config, model.label_names)
    measured = [measure(model, examples)]
    for directory in directories[1:]:
        model = open_model(directory, config.runtime)
        if model.label_names != names:
            raise ArtifactError(
                f"expected models of the same classes, found {list(names)} in {directories[0]} and "
                f"{list(model.label_names)} in {directory}\n  what to do: evaluate them one by one"
            )
        measured.append(measure(model, examples))
    rows = [_row(*pair, measured[0], examples, names) for pair in zip(directories, measured, strict=True)]
    click.echo(json.dumps(rows, indent=2)) if as_json else _show(rows)


def _examples(config: PotstillConfig, label_names: tuple[str, ...]) -> Examples:
    """Read a labelled file whole, or the held-out part of a data set."""
    from potstill.data import load_corpus, read_examples

    if Path(config.data.source).is_file():
        return read_examples(config.data.source, config.data, label_names)
    corpus = load_corpus(config.data)
    if corpus.label_names != label_names:
        raise ArtifactError(
            f"the model knows the classes {list(label_names)}, {corpus.name} has {list(corpus.label_names)}\n"
            f"  what to do: name data of the model's own task with --data"
        )
    return corpus.evaluation


def _row(
    directory: Path, measured: Measurement, first: Measurement, examples: Examples, label_names: tuple[str, ...]
) -> dict[str, Any]:
    """Put together what is known of one model; `first` is the one that the others are compared with."""
    from potstill.evaluation import majority_verdict, mcnemar
    from potstill.models import TrainingRecord

    record = TrainingRecord.load(directory)
    majority = label_names[int(np.bincount(examples.labels).argmax())]
    compared = None if measured is first else mcnemar(examples.labels, measured.predictions, first.predictions)
    return {
        "model": str(directory),
        **{name: value for name, value in vars(record).items() if name != "best"},
        "sentences_per_second": measured.sentences_per_second,
        "metrics": vars(measured.metrics),
        "intervals": measured.intervals,
        "verdict": majority_verdict(measured.intervals, majority),
        "mcnemar_against_first": None if compared is None else vars(compared),
    }


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console

    console = Console()
    console.print(_table(rows))
    metrics = rows[0]["metrics"]
    console.print(
        f"{metrics['count']:,} texts; always answering the most frequent class: {metrics['majority_accuracy']:.2%}, "
        f"MCC 0. Brackets: 95 % bootstrap intervals.",
        highlight=False,
    )
    for row in rows:
        if row["verdict"]:
            console.print(f"{row['model']}: {row['verdict']}", style="yellow", highlight=False)


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from potstill.report.tables import interval, magnitude, percent, score

    def with_interval(row: dict[str, Any], name: str) -> str:
        number = percent if name == "accuracy" else score
        return escape(f"{number(row['metrics'][name])}\n{interval(row['intervals'][name], number)}")

    table = Table()
    for title in ("model", "parameters", "trainable", "on disk", "accuracy", "MCC", "F1", "sentences/s", "p vs first"):
        table.add_column(title, justify="left" if title == "model" else "right", overflow="fold")
    for row in rows:
        mcnemar = row["mcnemar_against_first"]
        table.add_row(
            escape(row["model"]),
            magnitude(row["parameters"]),
            magnitude(row["trainable_parameters"]),
            f"{row['bytes_on_disk'] / 1e6:.1f} MB",
            *(with_interval(row, name) for name in ("accuracy", "mcc", "f1")),
            f"{row['sentences_per_second']:,.0f}",
            "" if mcnemar is None else f"{mcnemar['p_value']:.3f}",
        )
    return table
