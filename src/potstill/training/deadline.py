"""A time by which work has to be done: trainings take fewer steps, labelling and sampling stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from potstill.console import print_line
from potstill.training.base import Callback, Record
from potstill.training.fit import Trainer

PLANNED_STEPS: Final = "planned_steps"
"""Key in an epoch's record, where the time sufficed for fewer steps than this."""

_WARM_UP: Final = 3
"""Steps from which a speed can be told: the first is slower."""
SCORING: Final = 1 / 3
"""Work of reading a text against that of learning from it, which has a backward pass too, of about twice the work."""

_ends: ContextVar[float | None] = ContextVar("ends", default=None)


@contextmanager
def until(ends: float | None) -> Iterator[None]:
    """Let what is trained, sampled or labelled inside end by `ends`, as `time.time` counts; None: there is no limit."""
    token = _ends.set(ends)
    try:
        yield
    finally:
        _ends.reset(token)


def seconds_left() -> float | None:
    """Return the time until the end that `until` has set, below 0 once it is over; None: there is no limit."""
    return None if (ends := _ends.get()) is None else ends - time.time()


def is_over() -> bool:
    """Say whether the end that `until` has set has come."""
    return (left := seconds_left()) is not None and left <= 0


@contextmanager
def half_of_the_time() -> Iterator[None]:
    """Let what is inside end when half of the time is over that is left now."""
    left = seconds_left()
    with until(None if left is None else time.time() + left / 2):
        yield


def deadline_callbacks() -> tuple[Callback, ...]:
    """Return what keeps a training to the end that `until` has set."""
    return () if (ends := _ends.get()) is None else (Deadline(ends),)


class Deadline(Callback):
    """Ends a training in time, its validation included.

    The number of steps is what fits at the speed so far. It is known in advance, so that the learning rate comes down
    to its end.
    """

    def __init__(self, ends: float) -> None:
        self._ends = ends
        self._training = 0.0
        self._scoring: float | None = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Note where it begins."""
        self._planned, self._first, self._latest = trainer.total_steps, trainer.steps, time.time()

    def on_step(self, trainer: Trainer) -> None:
        """Take fewer steps, or more again, by the speed so far."""
        self._training += self._lap()
        self._adjust(trainer)

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        """Measure the validation; note in the record that the training is cut short."""
        self._scoring = self._lap()
        self._adjust(trainer)
        if trainer.total_steps < self._planned:
            record[PLANNED_STEPS] = self._planned

    def on_fit_end(self, trainer: Trainer) -> None:
        """Say that the training was cut short."""
        if trainer.total_steps < self._planned:
            print_line(
                f"{trainer.context.title}  ends after step {trainer.steps} of {self._planned}: its share of the time "
                "limit is used"
            )

    def _lap(self) -> float:
        before, self._latest = self._latest, time.time()
        return self._latest - before

    def _adjust(self, trainer: Trainer) -> None:
        taken, left = trainer.steps - self._first, self._ends - self._latest
        if taken == 0:
            return
        data, epoch = trainer.data, self._planned / trainer.epochs
        step = self._training / taken
        scoring = self._scoring
        if scoring is None:
            scoring = SCORING * step * epoch * len(data.validation.tokens.ids) / len(data.train.tokens.ids)
        if taken < _WARM_UP and left > scoring:
            return
        wanted = self._planned - trainer.steps
        if wanted * step + (trainer.epochs - len(trainer.history)) * scoring <= left:
            fitting = wanted
        else:
            fitting = min(wanted, max(0, int((left - scoring) / (step + scoring / epoch))))
        if trainer.steps + fitting != trainer.total_steps:
            trainer.end_after(trainer.steps + fitting)
