"""What a search of settings found out, as plain data: `SearchResult` is the content of `search.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pydantic_core
from scipy.stats import t as student_t

from potstill.evaluation.results import Spread

ALPHA: Final = "distillation.alpha"
TEMPERATURE: Final = "distillation.temperature"
REFERENCE: Final[Mapping[str, float]] = {ALPHA: 0.5, TEMPERATURE: 2.0}
"""The reference experiment's alpha and T: what a search asks about."""

Outcome = Literal["finished", "stopped", "failed", "too large"]


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and what came of them.

    Attributes:
        number: From 1, in the order in which the trials ended.
        outcome: `finished`; `stopped` early, being worse than the others; `failed`, since its loss was no longer finite
            or the settings exclude each other; `too large`, and not trained.
        settings: What was tried, by dotted name, values that the space fixes included.
        mcc: MCC on the selection split, the mean over seeds; None unless it finished.
        seeds: MCC of each seed.
        parameters: Size of the student; None where it was not built.
        epochs: Epochs that the first seed's training ran.
        seconds: Time in all.
        note: What happened, where it did not finish.
    """

    number: int
    outcome: Outcome
    settings: dict[str, Any]
    mcc: float | None
    seeds: dict[int, float]
    parameters: int | None
    epochs: int
    seconds: float
    note: str = ""

    @property
    def point(self) -> tuple[float, float]:
        """Its alpha and T."""
        return float(self.settings[ALPHA]), float(self.settings[TEMPERATURE])


@dataclass(frozen=True)
class Rematch:
    """The best settings against the same ones with the reference's alpha and T, on seeds that no trial had.

    The best of many trials is in part the luckiest; on other seeds luck starts anew.

    Attributes:
        seeds: What was trained with.
        best: MCC on the selection split of each seed.
        reference: Likewise; the same numbers where the best has the reference's alpha and T itself.
    """

    seeds: tuple[int, ...]
    best: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def difference(self) -> float:
        """Mean of best minus reference."""
        return float(np.mean(np.subtract(self.best, self.reference)))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean difference (Student's t over the seeds' pairs); None with fewer than two."""
        if len(self.seeds) < 2:
            return None
        differences = np.subtract(self.best, self.reference)
        half = student_t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
        return self.difference - float(half), self.difference + float(half)


@dataclass(frozen=True)
class SearchResult:
    """All trials of a search and what follows from them.

    Attributes:
        data: Name of the data.
        selection: Texts of the selection split, which all scores come from.
        teachers: How many teachers judged.
        transfer: Texts of the transfer set; 0: there was none.
        grid: Whether alpha and T were tried as a grid, with nothing else changed.
        space: What was tried, by dotted name, as the configuration says it.
        trials: In their order; none that were interrupted.
        rematch: None where no seeds were left for it, or no trial finished.
        command: Command line that goes on with the search.
    """

    data: str
    selection: int
    teachers: int
    transfer: int
    grid: bool
    space: dict[str, Any]
    trials: tuple[Trial, ...]
    rematch: Rematch | None
    command: str

    @property
    def finished(self) -> tuple[Trial, ...]:
        """The trials with an MCC."""
        return tuple(trial for trial in self.trials if trial.outcome == "finished")

    @property
    def best(self) -> Trial | None:
        """The trial with the highest MCC; None where none finished."""
        return best_of(self.trials)

    @property
    def at_reference(self) -> Trial | None:
        """The best finished trial with exactly the reference's alpha and T."""
        return best_of(trial for trial in self.trials if trial.point == tuple(REFERENCE.values()))

    @property
    def seed_spread(self) -> float | None:
        """Standard deviation of the MCC over seeds, settings being equal; None where nothing was trained twice.

        Pooled over the trials with several seeds and the rematch.
        """
        groups: list[Sequence[float]] = [tuple(trial.seeds.values()) for trial in self.finished]
        if self.rematch is not None:
            groups += {self.rematch.best, self.rematch.reference}  # as a set: they may be the same
        return pooled_deviation(groups)

    def to_json(self) -> str:
        """Write all fields and what follows from them."""
        best, rematch = self.best, self.rematch
        compared = None
        if rematch is not None:
            compared = vars(rematch) | {"difference": rematch.difference, "interval": rematch.interval}
        derived = {
            "best": None if best is None else best.number,
            "reference": dict(REFERENCE),
            "at_reference": None if self.at_reference is None else self.at_reference.number,
            "rematch": compared,
            "seed_spread": self.seed_spread,
        }
        return pydantic_core.to_json(vars(self) | derived, indent=2).decode() + "\n"


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """Return the finished trial with the highest MCC, the first of equals; None where none finished."""
    finished = ((trial.mcc, -trial.number, trial) for trial in trials if trial.mcc is not None)
    return max(finished, default=(0.0, 0, None))[2]


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the sample standard deviation within groups; None where no group has two members."""
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    if freedom == 0:
        return None
    squares = sum((len(group) - 1) * Spread.of(group).std ** 2 for group in groups if len(group) > 1)
    return float(np.sqrt(squares / freedom))
