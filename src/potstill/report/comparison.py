"""Saved models on the same texts: what `potstill evaluate` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.filesize import decimal

from potstill.console import SafeConsole
from potstill.data import Examples
from potstill.data.encoded import most_frequent
from potstill.evaluation import McNemar, PairedTest, mcnemar, paired_test
from potstill.evaluation.measure import Measurement, Selective
from potstill.experiment.record import TrainingRecord
from potstill.experiment.saved import is_finished
from potstill.predict.hub import hub_name
from potstill.predict.wording import numbered
from potstill.report.findings import examples_told_apart
from potstill.report.tables import (
    EMPTY,
    Cell,
    ResultTable,
    class_table,
    magnitude,
    percent,
    probability,
    score,
    score_cells,
    score_headers,
)

_TESTS = {McNemar: "mcnemar", PairedTest: "paired_test"}
"""What JSON calls each test."""


@dataclass(frozen=True)
class Row:
    """One model, or the finished models of a directory that differ by their seed alone.

    `models` holds what was measured, by seed (0 where the model's directory names none), `record` how the first was
    trained; None where no file says so.
    """

    directory: Path
    models: dict[int, Measurement]
    record: TrainingRecord | None

    def against(self, other: Row, examples: Examples) -> McNemar | PairedTest | None:
        """Compare two single models' answers, or the MCC over two or more seeds that both have; None without these."""
        if len(self.models) == len(other.models) == 1:
            first, second = (next(iter(row.models.values())).predictions for row in (self, other))
            return mcnemar(examples.labels, first, second)
        scores = [{seed: model.metrics.mcc for seed, model in row.models.items()} for row in (self, other)]
        test = paired_test(*scores)
        return test if test is not None and test.seeds > 1 else None


def rows_of(measured: Mapping[Path, Measurement]) -> list[Row]:
    """Put the models of directories `seed-N` into one row per parent directory, unless they are not finished."""
    groups: dict[Path, dict[int, Path]] = {}
    for directory in measured:
        place = directory.resolve()
        seed = place.name.removeprefix("seed-")
        is_seed = seed != place.name and seed.isdecimal() and is_finished(place)
        parent, number = (place.parent, int(seed)) if is_seed else (place, 0)
        groups.setdefault(parent, {})[number] = directory
    return [
        Row(
            parent if len(seeds) > 1 else next(iter(seeds.values())).resolve(),
            {seed: measured[directory] for seed, directory in seeds.items()},
            TrainingRecord.find(next(iter(seeds.values()))),
        )
        for parent, seeds in groups.items()
    ]


def compare(rows: Sequence[Row], examples: Examples) -> list[tuple[Row, Row, McNemar | PairedTest]]:
    """Compare a run's distilled students with its baselines, and every other row with the first."""
    by_place = {row.directory: row for row in rows}
    found: list[tuple[Row, Row, McNemar | PairedTest]] = []
    seen: set[frozenset[Path]] = set()
    for row in rows:
        baseline = by_place.get(_baseline(row.directory), row)
        opponent = rows[0] if baseline is row else baseline
        pair = frozenset((row.directory, opponent.directory))
        if len(pair) == 2 and pair not in seen and (test := row.against(opponent, examples)) is not None:
            found.append((row, opponent, test))
        seen.add(pair)
    return found


def _baseline(students: Path) -> Path:
    """Return where a run's baseline of distilled students is; `students` itself if these are others."""
    *above, group, seed = students.parts
    if seed == "distilled":
        return students.parent / "baseline"
    return Path(*above, "baseline", seed) if group == "distilled" else students


def to_json(measured: Mapping[Path, Measurement], examples: Examples) -> dict[str, Any]:
    """Return each model's scores and costs, and the comparisons."""
    models = []
    for directory, model in measured.items():
        record = TrainingRecord.find(directory)
        known = {} if record is None else {name: value for name, value in vars(record).items() if name != "best"}
        scores = {"metrics": asdict(model.metrics), "intervals": model.intervals}
        calibration = {"calibration": asdict(model.calibration), "texts_per_second": model.texts_per_second}
        selective = {} if model.selective is None else {"selective": asdict(model.selective)}
        models.append({"model": str(directory), **known, **scores, **calibration, **selective})
    comparisons = [
        {"model": str(one.directory), "compared_with": str(other.directory), _TESTS[type(test)]: asdict(test)}
        for one, other, test in compare(rows_of(measured), examples)
    ]
    return {"models": models, "comparisons": comparisons}


def show(
    measured: Mapping[Path, Measurement],
    examples: Examples,
    labels: Sequence[str],
    scored: str,
    positive: int | None = None,
) -> None:
    """Print the tables and the comparisons.

    `labels` are the classes' names, `scored` says in words what the models were scored on, and `positive` is the index
    of the class whose F1 is shown; None: the mean of all.
    """
    console = SafeConsole(highlight=False, markup=False)
    console.print(f"{numbered(len(examples), 'text')}, {scored}", soft_wrap=True)
    rows = rows_of(measured)
    levels = zip(*(row.directory.parent.parts for row in rows), strict=False)
    common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    names = {row.directory: str(hub_name(row.directory) or "/".join(row.directory.parts[common:])) for row in rows}
    cells = [_cells(names[row.directory], row, positive) for row in rows]
    majority = labels[most_frequent(examples.labels)]
    share = Cell(percent(next(iter(measured.values())).metrics.majority_accuracy))
    is_several = examples.labels.ndim > 1
    f1 = (EMPTY,) * (2 if is_several else 1)
    cells.append((Cell(f'always "{majority}"'), *f1, share, Cell(score(0.0)), EMPTY, EMPTY))
    headers = ("model", *score_headers(labels, positive, multi_label=is_several), "size", "texts/s")
    console.print(ResultTable(headers, tuple(cells)).to_rich())
    by_row = {names[row.directory]: [one.metrics for one in row.models.values()] for row in rows[:1]}
    console.print((table := class_table(by_row, labels)).to_rich())
    if len(table.rows) < len(labels):
        console.print(f"{len(table.rows)} of {len(labels)} classes, those with the lowest F1", soft_wrap=True)
    console.print("[low, high]: 95 % bootstrap interval; ±: standard deviation over seeds", soft_wrap=True)
    for row in rows:
        for seed, model in row.models.items():
            if model.selective is not None:
                name = f"{names[row.directory]}, seed {seed}," if len(row.models) > 1 else names[row.directory]
                console.print(_answered(name, model.selective), soft_wrap=True)
    for one, other, test in compare(rows, examples):
        first, second = names[one.directory], names[other.directory]
        if isinstance(test, McNemar):
            words = examples_told_apart(test, first, second, multi_label=is_several)
        else:
            p_value = "no test" if test.p_value is None else f"paired t-test, {probability(test.p_value)}"
            words = f"{first}'s MCC is {test.mean_difference:+.3f} from {second}'s over {test.seeds} seeds ({p_value})"
        console.print(words, soft_wrap=True)


def _answered(name: str, selective: Selective) -> str:
    right = "" if selective.accuracy is None else f", {percent(selective.accuracy)} of these correctly"
    where = f"those of which it is at least {percent(selective.min_confidence)} sure"
    return f"{name} answers {percent(selective.coverage)} of the texts ({where}){right}"


def _cells(name: str, row: Row, positive: int | None) -> tuple[Cell, ...]:
    models, record = list(row.models.values()), row.record
    return (
        Cell(name, f"({len(models)} seeds)" if len(models) > 1 else ""),
        *score_cells(models, positive),
        EMPTY if record is None else Cell(magnitude(record.parameters), decimal(record.bytes_on_disk)),
        Cell(f"{fmean(model.texts_per_second for model in models):,.0f}"),
    )
