"""The result tables: built once as rows of cells, shown in the terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from potstill.evaluation import DataSummary, EnsembleResult, Intervals, Metrics, ModelResult, Role, Spread, Summary
from potstill.predict.wording import in_markdown

ROLE_NAMES: dict[Role, str] = {
    "teacher": "Teacher",
    "distilled": "Distilled student",
    "baseline": "Baseline student",
}

LINEAR_NAME = "Linear SVM"

_SHOWN_CLASSES = 8
"""As many names as a sentence bears; `summary.json` and a student's manifest have all of them."""

Number = Callable[[float], str]


@dataclass(frozen=True)
class Cell:
    """A value and what qualifies it: its interval, its spread or its share."""

    value: str
    detail: str = ""

    def write(self, between: str) -> str:
        """Write the value and the detail."""
        return f"{self.value}{between}{self.detail}".rstrip()


EMPTY = Cell("–")


@dataclass(frozen=True)
class ResultTable:
    """Headers and rows; the first column holds words, all others numbers."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def to_rich(self, title: str = "") -> Table:
        """Lay the table out for the terminal, details under their values; nothing in it is read as markup."""
        table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for position, header in enumerate(self.headers):
            table.add_column(Text(header), justify="right" if position else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell.write("\n")) for cell in row))
        return table

    def turned(self) -> ResultTable:
        """Return the table on its side: few rows with many columns then fit 80 characters."""
        headers = tuple(row[0].write("\n") for row in self.rows)
        columns = enumerate(self.headers[1:], start=1)
        return ResultTable(
            ("", *headers), tuple((Cell(name), *(row[index] for row in self.rows)) for index, name in columns)
        )

    def to_markdown(self) -> str:
        """Write a Markdown table."""
        rule = ["---"] + ["--:"] * (len(self.headers) - 1)
        body = [[cell.write(" ").replace("|", r"\|") for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in [list(self.headers), rule, *body])


def model_table(summary: Summary) -> ResultTable:
    """Show one row per role: the mean and standard deviation over seeds, or one seed's value and its interval."""
    sizes, scores = ("parameters", "trainable", "on disk"), ("accuracy", "MCC", "F1", "ECE")
    headers = ("model", *sizes, *scores, "training", "texts/s")
    rows = [_model_row(ROLE_NAMES[role], summary.of(role)) for role in summary.roles]
    if (linear := summary.linear) is not None:
        sizes_of_it = (Cell(magnitude(linear.parameters)), Cell(magnitude(linear.parameters)))
        costs = (Cell(duration(linear.train_seconds)), Cell(f"{linear.texts_per_second:,.0f}"))
        rows.append(
            (
                Cell(LINEAR_NAME),
                *sizes_of_it,
                Cell(decimal(linear.bytes_on_disk)),
                *score_cells([linear]),
                EMPTY,
                *costs,
            )
        )
    majority = summary.data.majority
    always = (Cell(f'always "{summary.data.majority_label}"'), Cell("0"), Cell("0"), EMPTY)
    reached = (Cell(percent(majority.accuracy)), Cell(score(majority.mcc)), Cell(score(majority.f1)))
    return ResultTable(headers, (*rows, (*always, *reached, EMPTY, EMPTY, EMPTY)))


def seed_table(summary: Summary) -> ResultTable:
    """Show one row per trained model, and one for teachers that taught together, each score with its interval."""
    headers = ("model", "seed", "accuracy", "MCC", "F1", "ECE", "NLL", "MCC on validation", "epoch kept")
    rows = {role: list(map(_seed_row, summary.of(role))) for role in summary.roles}
    if summary.ensemble is not None:
        rows["teacher"].append(_seed_row(summary.ensemble))
    return ResultTable(headers, tuple(row for of_role in rows.values() for row in of_role))


def summary_table(summary: Summary) -> Table:
    """Show a run's results in the terminal."""
    data = summary.data
    return model_table(summary).turned().to_rich(f"{data.name}: {data.test} examples of the test split")


def classes(names: Sequence[str]) -> str:
    """Name the classes; of many the first, and how many there are."""
    shown = ", ".join(f'"{name}"' for name in names[:_SHOWN_CLASSES])
    return shown if len(names) <= _SHOWN_CLASSES else f"{shown} and {len(names) - _SHOWN_CLASSES} more"


def data_in_markdown(data: DataSummary) -> DataSummary:
    """Return the data with its names escaped for Markdown."""
    name, source, majority, *names = map(in_markdown, (data.name, data.source, data.majority_label, *data.label_names))
    return replace(data, name=name, source=source, majority_label=majority, label_names=tuple(names))


def percent(share: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:.1f} %"


def score(value: float) -> str:
    """Write a coefficient such as MCC."""
    return f"{value:.3f}"


def probability(p_value: float) -> str:
    """Write a p-value."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def magnitude(count: int) -> str:
    """Write a large count for people: 134.5M."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        # Compared after rounding, so that 999,960 becomes 1.0M instead of 1000.0k.
        if round(count / size, 1) >= 1:
            return f"{count / size:.1f}{unit}"
    return str(count)


def duration(seconds: float) -> str:
    """Write a duration in the two units that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    if minutes:
        return f"{minutes} min {rest:02} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


def interval(ends: tuple[float, float], number: Number) -> str:
    """Write an interval without repeating its unit."""
    low, high = (number(end).removesuffix(" %") for end in ends)
    return f"[{low}, {high}]"


class Scored(Protocol):
    """A model's scores, or those of several teachers as one."""

    @property
    def metrics(self) -> Metrics:
        """Its scores."""

    @property
    def intervals(self) -> Intervals:
        """Their intervals."""


def score_cells(models: Sequence[Scored]) -> tuple[Cell, ...]:
    """Write accuracy, MCC and F1: of a single model with their intervals, of several with their deviation."""
    cells = []
    for name, number in (("accuracy", percent), ("mcc", score), ("f1", score)):
        cell = _spread([getattr(model.metrics, name) for model in models], number)
        cells.append(cell if len(models) > 1 else Cell(cell.value, interval(models[0].intervals[name], number)))
    return tuple(cells)


def _spread(values: Sequence[float], number: Number) -> Cell:
    """Write the mean over seeds and, of several, the standard deviation."""
    spread = Spread.of(values)
    return Cell(number(spread.mean), f"± {number(spread.std).removesuffix(' %')}" if len(values) > 1 else "")


def _model_row(name: str, models: Sequence[ModelResult]) -> tuple[Cell, ...]:
    """Summarise the models of one role; size and parameters are the same for every seed."""
    first = models[0]
    trainable = EMPTY
    if first.trainable_parameters:
        share = first.trainable_parameters / first.parameters
        trainable = Cell(magnitude(first.trainable_parameters), f"({percent(share)})" if share < 1 else "")
    return (
        Cell(name, f"({len(models)} seeds)" if len(models) > 1 else ""),
        Cell(magnitude(first.parameters)),
        trainable,
        Cell(decimal(first.bytes_on_disk)),
        *score_cells(models),
        _spread([model.calibration.ece for model in models], percent),
        Cell(duration(fmean(model.train_seconds for model in models))) if first.epochs else EMPTY,
        Cell(f"{fmean(model.texts_per_second for model in models):,.0f}"),
    )


def _seed_row(model: ModelResult | EnsembleResult) -> tuple[Cell, ...]:
    """Show one model, or the teachers that taught together."""
    calibration = (Cell(percent(model.calibration.ece)), Cell(score(model.calibration.nll)))
    if isinstance(model, EnsembleResult):
        names, training = (Cell(ROLE_NAMES["teacher"]), Cell("all, averaged")), (EMPTY, EMPTY)
    else:
        names = (Cell(ROLE_NAMES[model.role]), Cell(str(model.seed)))
        epoch = Cell(f"{model.best_epoch} of {model.epochs}") if model.epochs else EMPTY
        training = (Cell(score(model.validation_mcc)), epoch)
    return (*names, *score_cells([model]), *calibration, *training)
