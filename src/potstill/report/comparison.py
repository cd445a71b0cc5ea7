"""Saved models side by side: what `potstill evaluate` shows, model by model and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from potstill.data import Examples
from potstill.evaluation import McNemar, PairedTest, Spread, majority_verdict, mcnemar, paired_test
from potstill.models import Measurement, TrainingRecord
from potstill.report.tables import (
    EMPTY,
    Cell,
    ResultTable,
    duration,
    magnitude,
    percent,
    probability,
    score,
    score_cells,
    spread_cells,
)


@dataclass(frozen=True)
class ModelRow:
    """One model.

    Attributes:
        name: What the table calls it.
        directory: Where it is.
        record: How it came about; None where nothing says so.
        measured: Its answers, and what they are worth.
        verdict: Plain words where it is no better than the majority class.
        opponent: Name of the model that it is compared with; None for the first one.
        mcnemar: Itself against that one.
    """

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


@dataclass(frozen=True)
class SeedsRow:
    """The models of a directory that differ by their seed alone.

    Attributes:
        name: What the table calls the directory.
        directory: Where they are.
        models: The model of each seed.
        opponent: Name of the directory that they are compared with; None for the first one.
        paired_test: MCC against the models there, over the seeds that both have; None where that is none.
    """

    name: str
    directory: Path
    models: dict[int, Measurement]
    opponent: str | None
    paired_test: PairedTest | None

    def to_json(self) -> dict[str, Any]:
        """Return the scores' spread, and the comparison."""
        metrics = [measured.metrics for measured in self.models.values()]
        spreads = {name: Spread.of([getattr(m, name) for m in metrics]) for name in ("accuracy", "mcc", "f1")}
        return {
            "directory": str(self.directory),
            "seeds": list(self.models),
            **{name: asdict(spread) for name, spread in spreads.items()},
            "compared_with": self.opponent,
            "paired_test": None if self.paired_test is None else asdict(self.paired_test),
        }


@dataclass(frozen=True)
class Comparison:
    """Saved models on the same labelled texts.

    Attributes:
        models: In the order in which they were named.
        over_seeds: Directories with models of several seeds, in the same order.
        majority: The texts' most frequent class.
    """

    models: tuple[ModelRow, ...]
    over_seeds: tuple[SeedsRow, ...]
    majority: str

    @classmethod
    def of(
        cls,
        directories: Sequence[Path],
        measured: Sequence[Measurement],
        examples: Examples,
        label_names: Sequence[str],
    ) -> Comparison:
        """Compare models by what they answered, each with the one that it should beat."""
        majority = label_names[int(np.bincount(examples.labels).argmax())]
        return cls(_models(directories, measured, examples, majority), _over_seeds(directories, measured), majority)

    def to_json(self) -> dict[str, Any]:
        """Return all but the single answers."""
        return {
            "models": [row.to_json() for row in self.models],
            "over_seeds": [row.to_json() for row in self.over_seeds],
        }


def show(comparison: Comparison, scored: str) -> None:
    """Print the tables.

    Args:
        comparison: What they hold.
        scored: What the models were scored on, in words.
    """
    console = Console(highlight=False, markup=False)
    console.print(f"{comparison.models[0].measured.metrics.count:,} texts, {scored}", soft_wrap=True)
    for table in (_scores(comparison), _costs(comparison.models)):
        console.print(table.to_plain())
    console.print("[low, high]: 95 % bootstrap interval. p: McNemar's test of the right answers.")
    if comparison.over_seeds:
        console.print(_spreads(comparison.over_seeds).to_plain())
        console.print("±: standard deviation over seeds. difference, p: MCC of equal seeds, paired t-test.")
    for row in comparison.models:
        if row.verdict:
            console.print(f"{row.name}: {row.verdict}", style="yellow")


def _models(
    directories: Sequence[Path], measured: Sequence[Measurement], examples: Examples, majority: str
) -> tuple[ModelRow, ...]:
    names = _names(directories, 2)
    rows = []
    for place, directory in enumerate(directories):
        opponent = _opponent(place, directories, _baseline(directory.parent) / directory.name)
        compared = None
        if opponent is not None:
            compared = mcnemar(examples.labels, measured[place].predictions, measured[opponent].predictions)
        rows.append(
            ModelRow(
                name=names[place],
                directory=directory,
                record=TrainingRecord.find(directory),
                measured=measured[place],
                verdict=majority_verdict(measured[place].intervals, majority),
                opponent=None if opponent is None else names[opponent],
                mcnemar=compared,
            )
        )
    return tuple(rows)


def _over_seeds(directories: Sequence[Path], measured: Sequence[Measurement]) -> tuple[SeedsRow, ...]:
    groups: dict[Path, dict[int, Measurement]] = {}
    for directory, model in zip(directories, measured, strict=True):
        seed = directory.name.removeprefix("seed-")
        if seed != directory.name and seed.isdecimal():
            groups.setdefault(directory.parent, {})[int(seed)] = model
    groups = {parent: models for parent, models in groups.items() if len(models) > 1}
    parents = list(groups)
    names = _names(parents, 1)
    rows = []
    for place, (parent, models) in enumerate(groups.items()):
        opponent = _opponent(place, parents, _baseline(parent))
        if opponent is None:
            rows.append(SeedsRow(names[place], parent, models, None, None))
        else:
            compared = paired_test(*(_mcc(of) for of in (models, groups[parents[opponent]])))
            rows.append(SeedsRow(names[place], parent, models, names[opponent], compared))
    return tuple(rows)


def _mcc(models: dict[int, Measurement]) -> dict[int, float]:
    return {seed: measured.metrics.mcc for seed, measured in models.items()}


def _names(directories: Sequence[Path], parts: int) -> list[str]:
    """Name directories by their last `parts` parts, or by as many more as it takes to tell them apart."""
    absolute = [directory.resolve().parts for directory in directories]
    while True:
        names = ["/".join(path[-parts:]) for path in absolute]
        if len(set(names)) == len(set(absolute)):
            return names
        parts += 1


def _baseline(students: Path) -> Path:
    """Return where the baselines of a run's distilled students are; `students` itself if these are others."""
    return students.parent / "baseline" if students.name == "distilled" else students


def _opponent(place: int, directories: Sequence[Path], baseline: Path) -> int | None:
    """Choose whom one is compared with: its baseline if that is another one and there, else the first."""
    if baseline != directories[place] and baseline in directories:
        return directories.index(baseline)
    return 0 if place else None


def _name(row: ModelRow | SeedsRow) -> Cell:
    return Cell(row.name, f"vs {row.opponent}" if row.opponent else "")


def _scores(comparison: Comparison) -> ResultTable:
    def cells(row: ModelRow) -> tuple[Cell, ...]:
        compared = EMPTY if row.mcnemar is None else Cell(probability(row.mcnemar.p_value))
        return (_name(row), *score_cells(row.measured.metrics, row.measured.intervals), compared)

    share = comparison.models[0].measured.metrics.majority_accuracy
    always = (Cell(f'always "{comparison.majority}"'), Cell(percent(share)), Cell(score(0.0)), EMPTY, EMPTY)
    return ResultTable(("model", "accuracy", "MCC", "F1", "p"), (*map(cells, comparison.models), always))


def _costs(rows: Sequence[ModelRow]) -> ResultTable:
    def cells(row: ModelRow) -> tuple[Cell, ...]:
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


def _spreads(rows: Sequence[SeedsRow]) -> ResultTable:
    def cells(row: SeedsRow) -> tuple[Cell, ...]:
        scores = spread_cells([measured.metrics for measured in row.models.values()])
        return (_name(row), Cell(str(len(row.models))), *scores, *_difference(row))

    return ResultTable(("over seeds", "seeds", "accuracy", "MCC", "F1", "difference", "p"), tuple(map(cells, rows)))


def _difference(row: SeedsRow) -> tuple[Cell, Cell]:
    """Write how far the MCC is from the opponent's, and the chance of that; and over how many seeds, if not all."""
    test = row.paired_test
    if test is None:
        return EMPTY, EMPTY
    shared = "" if test.seeds == len(row.models) else f"{test.seeds} shared"
    difference = Cell(f"{test.mean_difference:+.3f}", shared)
    return difference, EMPTY if test.p_value is None else Cell(probability(test.p_value))
