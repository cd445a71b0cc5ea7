"""Saved models side by side: what `potstill evaluate` shows, model by model and over seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.filesize import decimal

from potstill.console import SafeConsole
from potstill.data import Examples
from potstill.evaluation import McNemar, PairedTest, Spread, majority_verdict, mcnemar, paired_test
from potstill.evaluation.measure import Measurement
from potstill.experiment.record import TrainingRecord
from potstill.experiment.saved import is_finished
from potstill.predict.wording import numbered
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
        record: How it was trained; None where no file says so.
        verdict: Plain words where it is no better than the majority class.
        opponent: The model that it is compared with; None for the one that the others are compared with.
        mcnemar: Itself against `opponent`.
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
        record.pop("best", None)
        return {
            "model": str(self.directory),
            **record,
            "texts_per_second": self.measured.texts_per_second,
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
        places = [directory.resolve() for directory in directories]
        opponents = _opponents(places, [_baseline(place.parent) / place.name for place in places])
        models = []
        for directory, own, opponent in zip(directories, measured, opponents, strict=True):
            other = None if opponent is None else measured[opponent].predictions
            models.append(
                ModelRow(
                    directory=directory,
                    record=TrainingRecord.find(directory),
                    measured=own,
                    verdict=majority_verdict(own.intervals, majority),
                    opponent=None if opponent is None else directories[opponent],
                    mcnemar=None if other is None else mcnemar(examples.labels, own.predictions, other),
                )
            )
        return cls(tuple(models), tuple(_over_seeds(places, measured)), majority)

    def to_json(self) -> dict[str, Any]:
        """Return all but the single answers."""
        return {
            "models": [row.to_json() for row in self.models],
            "over_seeds": [row.to_json() for row in self.over_seeds],
        }


def show(comparison: Comparison, scored: str) -> None:
    """Print the tables; `scored` says in words what the models were scored on."""
    console = SafeConsole(highlight=False, markup=False)
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


def _over_seeds(places: Sequence[Path], measured: Sequence[Measurement]) -> list[SeedsRow]:
    groups: dict[Path, dict[int, Measurement]] = {}
    for place, model in zip(places, measured, strict=True):
        seed = place.name.removeprefix("seed-")
        if seed != place.name and seed.isdecimal() and is_finished(place):
            groups.setdefault(place.parent, {})[int(seed)] = model
    parents = list(groups)
    scores = [{seed: model.metrics.mcc for seed, model in models.items()} for models in groups.values()]
    rows = []
    for parent, own, opponent in zip(parents, scores, _opponents(parents, map(_baseline, parents)), strict=True):
        other, test = (None, None) if opponent is None else (parents[opponent], paired_test(own, scores[opponent]))
        if len(own) > 1:
            rows.append(SeedsRow(parent, groups[parent], other, test))
    return rows


def _opponents(places: Sequence[Path], baselines: Iterable[Path]) -> list[int | None]:
    """Choose, by its number, what each is compared with: its baseline if that is among `places`, else the first."""
    numbers = {place: number for number, place in enumerate(places)}
    found = [None if other == place else numbers.get(other) for place, other in zip(places, baselines, strict=True)]
    # The first has no opponent but its baseline, which is then not compared with it once more.
    others = [None if number == 0 or found[0] == number else 0 for number in range(len(places))]
    return [other if baseline is None else baseline for baseline, other in zip(found, others, strict=True)]


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
    first, rows = comparison.models[0], []
    for row in comparison.models:
        compared = EMPTY if row.mcnemar is None else Cell(probability(row.mcnemar.p_value))
        scores = score_cells(row.measured.metrics, row.measured.intervals)
        rows.append((_name(row, names, first.directory), *scores, compared))
    share = Cell(percent(first.measured.metrics.majority_accuracy))
    rows.append((Cell(f'always "{comparison.majority}"'), share, Cell(score(0.0)), EMPTY, EMPTY))
    return ResultTable(("model", "accuracy", "MCC", "F1", "p"), tuple(rows))


def _costs(models: Sequence[ModelRow], names: dict[Path, str]) -> ResultTable:
    rows = []
    for row in models:
        known: tuple[Cell, ...] = (EMPTY,) * 4
        if (record := row.record) is not None:
            texts = magnitude(record.parameters), magnitude(record.trainable_parameters)
            known = tuple(map(Cell, (*texts, decimal(record.bytes_on_disk), duration(record.train_seconds))))
        rows.append((Cell(names[row.directory]), *known, Cell(f"{row.measured.texts_per_second:,.0f}")))
    return ResultTable(("model", "parameters", "trainable", "on disk", "training", "sentences/s"), tuple(rows))


def _spreads(groups: Sequence[SeedsRow]) -> ResultTable:
    names = _names([place for row in groups for place in (row.directory, row.opponent) if place is not None], 1)
    rows = []
    for row in groups:
        difference = p_value = EMPTY
        if (test := row.paired_test) is not None:
            shared = "" if test.seeds == len(row.models) else f"{test.seeds} shared"
            difference = Cell(f"{test.mean_difference:+.3f}", shared)
            p_value = EMPTY if test.p_value is None else Cell(probability(test.p_value))
        scores = spread_cells([measured.metrics for measured in row.models.values()])
        name = _name(row, names, groups[0].directory)
        rows.append((name, Cell(str(len(row.models))), *scores, difference, p_value))
    return ResultTable(("over seeds", "seeds", "accuracy", "MCC", "F1", "difference", "p"), tuple(rows))
