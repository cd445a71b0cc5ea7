"""Trainings that have to end by a time, on a clock that the test sets."""

import pytest
import torch

from potstill.config import RuntimeConfig, TrainingConfig
from potstill.distillation import CrossEntropy
from potstill.training.base import Callback, FitContext, Splits
from potstill.training.callbacks import standard_callbacks
from potstill.training.compute import EXACT, make_fabric
from potstill.training.deadline import seconds_left, until
from potstill.training.fit import fit
from tiny_students import random_set, tiny_student

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = random_set(80)
EPOCHS, STEPS = 3, 20
"""Epochs, and the steps of each."""
SCORING = 5.0
"""Seconds of a validation."""
WHOLE = EPOCHS * (STEPS + SCORING)
"""Seconds of all, with a step a second."""


class Clock(Callback):
    """Counts seconds of steps and validations."""

    def __init__(self, seconds=lambda _: 1.0):
        self.now, self._seconds = 1000.0, seconds

    def __call__(self):
        return self.now

    def on_step(self, trainer):
        self.now += self._seconds(trainer.steps)

    def on_validation_batch(self, trainer):
        self.now += SCORING  # all in one batch


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Return a function that fits a student within some seconds of a clock."""

    def run(limit, clock=None):
        clock = clock or Clock()
        config = TrainingConfig(epochs=EPOCHS, batch_size=80 // STEPS, learning_rate=1e-2, warmup_ratio=0.1)
        model, begun = tiny_student(5, embedding_size=8, hidden_size=8), clock.now
        with monkeypatch.context() as patch, until(None if limit is None else begun + limit):
            patch.setattr("potstill.training.deadline.time.time", clock)
            usual = standard_callbacks(config, RuntimeConfig(checkpoint_seconds=None), tmp_path)
            context = FitContext(config, make_fabric(EXACT), 0, "trial", (clock, *usual))
            result = fit(model, Splits(DATA, DATA), CrossEntropy(), context)
        return result.history, model, clock.now - begun

    return run


def test_training_with_enough_time_is_that_without_a_limit(train, capsys):
    (free, first, _), (limited, second, _) = train(None), train(1.5 * WHOLE)
    times = ("seconds", "tokens_per_second", "texts_per_second")
    without = [
        [{name: value for name, value in one.items() if name not in times} for one in history]
        for history in (free, limited)
    ]
    assert without[0] == without[1]
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True))
    assert "time limit" not in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_training_ends_in_time_with_a_schedule_that_comes_down(train, capsys, share):
    history, _, used = train(share * WHOLE)
    last = history[-1]
    assert used <= share * WHOLE + 1
    assert used >= 0.7 * share * WHOLE
    assert last["planned_steps"] == EPOCHS * STEPS
    assert last["learning_rate"] < 0.2 * 1e-2
    assert (
        f"ends after step {last['steps']} of {EPOCHS * STEPS}: its share of the time limit" in capsys.readouterr().err
    )


def test_part_of_an_epoch_counts_the_texts_that_it_has_read(train):
    history, _, _ = train(STEPS / 2 + SCORING)
    assert len(history) == 1
    taken = history[0]["steps"]
    assert 5 < taken <= STEPS / 2
    assert history[0]["texts_per_second"] * history[0]["seconds"] == pytest.approx(taken * len(DATA) / STEPS)
    assert history[0]["train_loss"] == pytest.approx(0.7, abs=0.1)  # the mean over these texts, not over all


def test_steps_that_were_given_up_are_taken_where_the_speed_rises(train):
    history, _, used = train(WHOLE, Clock(lambda step: 3.0 if step <= 5 else 0.8))
    assert history[-1]["steps"] == EPOCHS * STEPS
    assert "planned_steps" not in history[-1]
    assert used <= WHOLE


def test_training_that_is_too_late_takes_one_step(train):
    history, _, _ = train(-5.0)
    assert [record["steps"] for record in history] == [1]


def test_there_is_no_limit_outside(monkeypatch):
    monkeypatch.setattr("potstill.training.deadline.time.time", lambda: 50.0)
    assert seconds_left() is None
    with until(60.0):
        assert seconds_left() == 10.0
        with until(None):
            assert seconds_left() is None
    assert seconds_left() is None
