"""The result tables: built once as rows of cells, shown in the terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final, Protocol

import jinja2
from rich.box import SIMPLE_HEAD
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from potstill.evaluation import DataSummary, EnsembleResult, Intervals, Metrics, ModelResult, Role, Spread, Summary
from potstill.evaluation.results import Headline, LinearResult
from potstill.predict.wording import in_markdown, printable

ROLE_NAMES: dict[Role, str] = {
    "teacher": "Teacher",
    "distilled": "Distilled student",
    "ngram": "N-gram student",
    "baseline": "Baseline student",
}

LINEAR_NAME = "Linear SVM"

_SHOWN_IN_TABLE = 30
"""Rows of a table of classes; `summary.json` has all."""
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
        """Lay the table out for the terminal, details under their values; nothing in it is markup, or control."""
        table = Table(
            title=Text(printable(title)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
        )
        for position, header in enumerate(self.headers):
            table.add_column(Text(printable(header)), justify="right" if position else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(printable(cell.write("\n"))) for cell in row))
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


def comparison_table(
    models: Mapping[str, Sequence[Scored]], costs: Mapping[str, Sequence[ModelResult | LinearResult]], data: DataSummary
) -> ResultTable:
    """Show the scores of models by their names, and what always answering the most frequent class scores.

    `costs` has, of those of which it is known, the size on disk and the speed.
    """
    scores = score_headers(data.label_names, data.positive, multi_label=data.multi_label)
    rows = []
    for name, scored in models.items():
        known = costs.get(name, ())
        size = Cell(decimal(known[0].bytes_on_disk)) if known else EMPTY
        rows.append((Cell(name), *score_cells(scored, data.positive), size, _speed(known)))
    always = (Cell(f'always "{data.majority_label}"'), *_constant_cells(data.majority, data.positive), EMPTY, EMPTY)
    return ResultTable(("", *scores, "on disk", "texts/s"), (*rows, always))


def _speed(models: Sequence[ModelResult | LinearResult]) -> Cell:
    """Write the mean speed; nothing of a teacher whose answers are looked up."""
    known = [model.texts_per_second for model in models if model.texts_per_second > 0]
    return Cell(f"{fmean(known):,.0f}") if known else EMPTY


def model_table(summary: Summary) -> ResultTable:
    """Show one row per role: the mean and standard deviation over seeds, or one seed's value and its interval."""
    sizes, data = ("parameters", "trainable", "on disk"), summary.data
    scored = (*score_headers(data.label_names, data.positive, multi_label=data.multi_label), "ECE")
    headers = ("model", *sizes, *scored, "training", "texts/s", "one text")
    rows = [_model_row(ROLE_NAMES[role], summary.of(role), data.positive) for role in summary.roles]
    if (linear := summary.linear) is not None:
        size, speed = Cell(magnitude(linear.parameters)), Cell(f"{linear.texts_per_second:,.0f}")
        scores = (*score_cells([linear], data.positive), EMPTY)
        costs = (Cell(duration(linear.train_seconds)), speed, EMPTY)
        rows.append((Cell(LINEAR_NAME), size, size, Cell(decimal(linear.bytes_on_disk)), *scores, *costs))
    always = (Cell(f'always "{data.majority_label}"'), Cell("0"), Cell("0"), EMPTY)
    scores = _constant_cells(data.majority, data.positive)
    return ResultTable(headers, (*rows, (*always, *scores, *[EMPTY] * 4)))


def class_table(
    models: Mapping[str, Sequence[Metrics]], names: Sequence[str], most: int = _SHOWN_IN_TABLE
) -> ResultTable:
    """Show the scores of each class, of more than `most` the worst: means over each group of models, by its name."""

    def mean(group: str, score_of: str, index: int) -> float:
        return fmean(getattr(one.per_class[index], score_of) for one in models[group])

    first = next(iter(models))
    counts = [one.count for one in models[first][0].per_class]
    worst = sorted(range(len(names)), key=lambda index: mean(first, "f1", index))[:most]
    columns = [(group, score_of) for group in models for score_of in ("precision", "recall", "f1")]
    rows = (
        (Cell(names[index]), Cell(f"{counts[index]:,}"), *(Cell(score(mean(*one, index))) for one in columns))
        for index in sorted(worst)
    )
    headers = (f"{group}: {'F1' if score_of == 'f1' else score_of}" for group, score_of in columns)
    return ResultTable(("class", "texts", *headers), tuple(rows))


def compared_roles(summary: Summary) -> list[Role]:
    """Name the two roles whose classes are compared: the student to use, and the baseline or else the teacher."""
    order: tuple[Role | None, ...] = (summary.recommended_role, "baseline", "teacher")
    return [role for role in dict.fromkeys(order) if role is not None and summary.of(role)][:2]


def seed_table(summary: Summary) -> ResultTable:
    """Show one row per trained model, and one for teachers that taught together, each score with its interval."""
    positive = summary.data.positive
    scores = score_headers(summary.data.label_names, positive, multi_label=summary.data.multi_label)
    headers = ("model", "seed", *scores, "ECE", "NLL", "MCC on validation", "epoch kept")
    rows = {role: [_seed_row(model, positive) for model in summary.of(role)] for role in summary.roles}
    if summary.ensemble is not None:
        rows["teacher"].append(_seed_row(summary.ensemble, positive))
    return ResultTable(headers, tuple(row for of_role in rows.values() for row in of_role))


def summary_table(summary: Summary) -> Table:
    """Show a run's results in the terminal."""
    data = summary.data
    whose = ", labelled by the teacher" if data.labels_by_teacher else ""
    return model_table(summary).turned().to_rich(f"{data.name}: {data.test} examples of the test split{whose}")


MARKDOWN: Final = jinja2.Environment(  # noqa: S701 - its templates are Markdown, no HTML
    loader=jinja2.PackageLoader("potstill", ""),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
"""Templates of reports and cards; filters are added below."""


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


MARKDOWN.filters |= {
    **{"grouped": "{:,}".format, "in_markdown": in_markdown, "magnitude": magnitude, "percent": percent},
    "score": score,
}


class Scored(Protocol):
    """A model's scores, or those of several teachers as one."""

    @property
    def metrics(self) -> Metrics:
        """Its scores."""

    @property
    def intervals(self) -> Intervals:
        """Their intervals."""


HEADLINES: dict[Headline, str] = {"accuracy": "accuracy", "micro_f1": "micro-F1"}
"""What the score that comes first is called."""
_SUBSETS = "subset accuracy"


def score_headers(
    label_names: Sequence[str], positive: int | None = None, *, multi_label: bool = False
) -> tuple[str, ...]:
    """Name the columns of `score_cells`."""
    f1 = "macro-F1" if positive is None else f'F1 of "{label_names[positive]}"'
    return (HEADLINES["micro_f1"], f1, _SUBSETS, "MCC") if multi_label else (f1, "accuracy", "MCC")


def f1_of(metrics: Metrics, positive: int | None) -> float:
    """Return the F1 of the class that is asked for, or the mean of all."""
    return metrics.f1 if positive is None else metrics.per_class[positive].f1


def score_cells(models: Sequence[Scored], positive: int | None = None) -> tuple[Cell, ...]:
    """Write F1, accuracy and MCC: of a single model with their intervals, of several with their deviation.

    Where texts may have several classes, micro-F1 comes first. The other F1 is that of the class `positive`, without an
    interval, or the mean of all classes.
    """

    def cell(name: str, number: Number) -> Cell:
        values = [getattr(one.metrics, name) for one in models]
        if len(models) > 1:
            return _spread(values, number)
        return Cell(number(values[0]), interval(models[0].intervals[name], number))

    f1 = cell("f1", score) if positive is None else _spread([f1_of(one.metrics, positive) for one in models], score)
    micro = () if models[0].metrics.micro_f1 is None else (cell("micro_f1", score),)
    return (*micro, f1, cell("accuracy", percent), cell("mcc", score))


def _constant_cells(metrics: Metrics, positive: int | None) -> tuple[Cell, ...]:
    micro = () if metrics.micro_f1 is None else (Cell(score(metrics.micro_f1)),)
    return (*micro, Cell(score(f1_of(metrics, positive))), Cell(percent(metrics.accuracy)), Cell(score(metrics.mcc)))


def _spread(values: Sequence[float], number: Number) -> Cell:
    spread = Spread.of(values)
    return Cell(number(spread.mean), f"± {number(spread.std).removesuffix(' %')}" if len(values) > 1 else "")


def _model_row(name: str, models: Sequence[ModelResult], positive: int | None) -> tuple[Cell, ...]:
    """Summarise the models of one role; size and parameters are the same for every seed."""
    first = models[0]
    is_timed = first.texts_per_second > 0  # not a teacher whose answers are looked up
    known = [model.latency_ms for model in models if model.latency_ms is not None and is_timed]
    trainable = EMPTY
    if first.trainable_parameters:
        share = first.trainable_parameters / first.parameters
        trainable = Cell(magnitude(first.trainable_parameters), f"({percent(share)})" if share < 1 else "")
    return (
        Cell(name, f"({len(models)} seeds)" if len(models) > 1 else ""),
        Cell(magnitude(first.parameters)),
        trainable,
        Cell(decimal(first.bytes_on_disk)),
        *score_cells(models, positive),
        _spread([model.calibration.ece for model in models], percent),
        Cell(duration(fmean(model.train_seconds for model in models))) if first.epochs else EMPTY,
        _speed(models),
        Cell(_milliseconds(fmean(known))) if known else EMPTY,
    )


def _milliseconds(time: float) -> str:
    return f"{time:,.0f} ms" if time >= 10 else f"{time:.2g} ms"


def _seed_row(model: ModelResult | EnsembleResult, positive: int | None) -> tuple[Cell, ...]:
    calibration = (Cell(percent(model.calibration.ece)), Cell(score(model.calibration.nll)))
    if isinstance(model, EnsembleResult):
        names, training = (Cell(ROLE_NAMES["teacher"]), Cell("all, averaged")), (EMPTY, EMPTY)
    else:
        names = (Cell(ROLE_NAMES[model.role]), Cell(str(model.seed)))
        epoch = Cell(f"{model.best_epoch} of {model.epochs}") if model.epochs else EMPTY
        training = (Cell(score(model.validation_mcc)), epoch)
    return (*names, *score_cells([model], positive), *calibration, *training)
