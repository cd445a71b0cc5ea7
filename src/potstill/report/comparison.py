"""Saved models side by side: what `potstill evaluate` shows, model by model and over seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from potstill.data import Examples
from potstill.evaluation import McNemar, PairedTest, Spread, majority_verdict, mcnemar, paired_test
from potstill.models import Measurement, TrainingRecord, is_finished
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
from potstill.wording import numbered


@dataclass(frozen=True)
class ModelRow:
    """One model.

    Attributes:
        directory: Where it is.
        record: How it came about; None where nothing says so.
        measured: Its answers, and what they are worth.
        verdict: Plain words where it is no better than the majority class.
        opponent: The model that it is compared with; None for the one that the others are compared with.
        mcnemar: Itself against that one.
    """

    directory: Path
    record: TrainingRecord | None
    measured: Measurement
    verdict: str | None
    opponent: Path | None
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
            "compared_with": None if self.opponent is None else str(self.opponent),
            "mcnemar": None if self.mcnemar is None else asdict(self.mcnemar),
        }


@dataclass(frozen=True)
class SeedsRow:
    """The models of a directory that differ by their seed alone.

    Attributes:
        directory: Where they are.
        models: The model of each seed; none whose training was interrupted.
        opponent: The directory that they are compared with; None for the one that the others are compared with.
        paired_test: MCC against the models there, over the seeds that both have; None where that is none.
    """

    directory: Path
    models: dict[int, Measurement]
    opponent: Path | None
    paired_test: PairedTest | None

    def to_json(self) -> dict[str, Any]:
        """Return the scores' spread, and the comparison."""
        metrics = [measured.metrics for measured in self.models.values()]
        spreads = {name: Spread.of([getattr(m, name) for m in metrics]) for name in ("accuracy", "mcc", "f1")}
        return {
            "directory": str(self.directory),
            "seeds": list(self.models),
            **{name: asdict(spread) for name, spread in spreads.items()},
            "compared_with": None if self.opponent is None else str(self.opponent),
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
        return cls(
            tuple(_models(directories, measured, examples, majority)),
            tuple(row for row in _over_seeds(directories, measured) if len(row.models) > 1),
            majority,
        )

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
    console.print(f"{numbered(comparison.models[0].measured.metrics.count, 'text')}, {scored}", soft_wrap=True)
    if comparison.over_seeds:
        console.print(_spreads(comparison.over_seeds).to_plain())
        console.print(
            "±: standard deviation over seeds. difference: mean MCC of the seeds that both have, minus that of the "
            "directory named, or else of the first. p: paired t-test."
        )
    names = _names([row.directory for row in comparison.models], 2)
    console.print(_scores(comparison, names).to_plain())
    console.print(
        "[low, high]: 95 % bootstrap interval. p: McNemar's test of the right answers, against the model named, or "
        "else the first."
    )
    console.print(_costs(comparison.models, names).to_plain())
    console.print(
        "parameters: frozen ones too. on disk: what prediction needs. training: the time it took. sentences/s: from "
        "texts to answers, on this machine."
    )
    for row in comparison.models:
        if row.verdict:
            console.print(f"{names[row.directory]}: {row.verdict}", style="yellow")


def _models(
    directories: Sequence[Path], measured: Sequence[Measurement], examples: Examples, majority: str
) -> Iterator[ModelRow]:
    places = [directory.resolve() for directory in directories]
    opponents = _opponents([(place, _baseline(place.parent) / place.name) for place in places])
    for directory, own, opponent in zip(directories, measured, opponents, strict=True):
        compared = None
        if opponent is not None:
            compared = mcnemar(examples.labels, own.predictions, measured[opponent].predictions)
        yield ModelRow(
            directory=directory,
            record=TrainingRecord.find(directory),
            measured=own,
            verdict=majority_verdict(own.intervals, majority),
            opponent=None if opponent is None else directories[opponent],
            mcnemar=compared,
        )


def _over_seeds(directories: Sequence[Path], measured: Sequence[Measurement]) -> Iterator[SeedsRow]:
    groups: dict[Path, dict[int, Measurement]] = {}
    for directory, model in zip(directories, measured, strict=True):
        place = directory.resolve()
        seed = place.name.removeprefix("seed-")
        if seed != place.name and seed.isdecimal() and is_finished(place):
            groups.setdefault(place.parent, {})[int(seed)] = model
    parents = list(groups)
    scores = [{seed: model.metrics.mcc for seed, model in models.items()} for models in groups.values()]
    opponents = _opponents([(parent, _baseline(parent)) for parent in parents])
    for parent, own, opponent in zip(parents, scores, opponents, strict=True):
        if opponent is None:
            yield SeedsRow(parent, groups[parent], None, None)
        else:
            yield SeedsRow(parent, groups[parent], parents[opponent], paired_test(own, scores[opponent]))


def _opponents(places: Sequence[tuple[Path, Path]]) -> list[int | None]:
    """Choose, by their numbers, whom each is compared with: its baseline if that is there, else the first.

    Args:
        places: Where each is and, of a distilled student, where its baseline would be.
    """
    numbers = {place: number for number, (place, _) in enumerate(places)}
    baselines = [numbers.get(baseline) if baseline != place else None for place, baseline in places]
    # The first one has none but its baseline, and that one is not compared with it once more.
    others = [None if number == 0 or baselines[0] == number else 0 for number in range(len(places))]
    return [other if baseline is None else baseline for baseline, other in zip(baselines, others, strict=True)]


def _baseline(students: Path) -> Path:
    """Return where the baselines of a run's distilled students are; `students` itself if these are others."""
    return students.parent / "baseline" if students.name == "distilled" else students


def _names(directories: Sequence[Path], parts: int) -> dict[Path, str]:
    """Name directories by their last `parts` parts, and by more where it takes these to tell them apart."""
    places = {directory: directory.resolve().parts for directory in directories}
    taken = dict.fromkeys(directories, parts)
    while True:
        names = {directory: "/".join(place[-taken[directory] :]) for directory, place in places.items()}
        owners = Counter(name for name, _ in {(names[directory], place) for directory, place in places.items()})
        if max(owners.values()) == 1:
            return names
        for directory, name in names.items():
            taken[directory] += owners[name] > 1


def _name(row: ModelRow | SeedsRow, names: dict[Path, str], first: Path) -> Cell:
    """Write a row's name, and its opponent's unless that is the first row."""
    return Cell(names[row.directory], "" if row.opponent in (None, first) else f"vs {names[row.opponent]}")


def _scores(comparison: Comparison, names: dict[Path, str]) -> ResultTable:
    def cells(row: ModelRow) -> tuple[Cell, ...]:
        compared = EMPTY if row.mcnemar is None else Cell(probability(row.mcnemar.p_value))
        scores = score_cells(row.measured.metrics, row.measured.intervals)
        return (_name(row, names, comparison.models[0].directory), *scores, compared)

    share = comparison.models[0].measured.metrics.majority_accuracy
    always = (Cell(f'always "{comparison.majority}"'), Cell(percent(share)), Cell(score(0.0)), EMPTY, EMPTY)
    return ResultTable(("model", "accuracy", "MCC", "F1", "p"), (*map(cells, comparison.models), always))


def _costs(rows: Sequence[ModelRow], names: dict[Path, str]) -> ResultTable:
    def cells(row: ModelRow) -> tuple[Cell, ...]:
        speed = Cell(f"{row.measured.sentences_per_second:,.0f}")
        if row.record is None:
            return (Cell(names[row.directory]), EMPTY, EMPTY, EMPTY, EMPTY, speed)
        return (
            Cell(names[row.directory]),
            Cell(magnitude(row.record.parameters)),
            Cell(magnitude(row.record.trainable_parameters)),
            Cell(f"{row.record.bytes_on_disk / 1e6:.1f} MB"),
            Cell(duration(row.record.train_seconds)),
            speed,
        )

    headers = ("model", "parameters", "trainable", "on disk", "training", "sentences/s")
    return ResultTable(headers, tuple(map(cells, rows)))


def _spreads(rows: Sequence[SeedsRow]) -> ResultTable:
    names = _names([place for row in rows for place in (row.directory, row.opponent) if place is not None], 1)

    def cells(row: SeedsRow) -> tuple[Cell, ...]:
        scores = spread_cells([measured.metrics for measured in row.models.values()])
        return (_name(row, names, rows[0].directory), Cell(str(len(row.models))), *scores, *_difference(row))

    return ResultTable(("over seeds", "seeds", "accuracy", "MCC", "F1", "difference", "p"), tuple(map(cells, rows)))


def _difference(row: SeedsRow) -> tuple[Cell, Cell]:
    """Write how far the MCC is from the opponent's, and the chance of that; and over how many seeds, if not all."""
    test = row.paired_test
    if test is None:
        return EMPTY, EMPTY
    shared = "" if test.seeds == len(row.models) else f"{test.seeds} shared"
    difference = Cell(f"{test.mean_difference:+.3f}", shared)
    return difference, EMPTY if test.p_value is None else Cell(probability(test.p_value))
