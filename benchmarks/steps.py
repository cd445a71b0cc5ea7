"""Training steps for the speed benchmarks: equal sentences, equal batches, equal settings for all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common import Run
from potstill.config import DataConfig, RuntimeConfig, TrainingConfig
from potstill.data import Examples
from potstill.data.tokenised import TrainingSet
from potstill.distillation import CrossEntropy
from potstill.teacher.transformer import TransformerTeacher
from potstill.training.base import Callback, FitContext, Splits
from potstill.training.fit import Trainer
from potstill.training.inference import tokens_at_once

Batches = Sequence[NDArray[np.int64]]

RUNTIME = RuntimeConfig(device="cpu", precision="32-true")
"""The same arithmetic for all."""
MAX_TOKENS = DataConfig().max_length
SPEED_TRAINING = TrainingConfig(epochs=1, schedule="constant", warmup_ratio=0.0)
"""Settings that Potstill and `transformers` mean alike, so that their losses can be compared step by step."""


def draw(examples: Examples, size: int, seed: int) -> Examples:
    """Draw `size` examples, or all there are."""
    return examples.take(np.random.default_rng(seed).permutation(len(examples))[:size])


def sample_batches(plan: Batches, count: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Draw `count` batches from an epoch's plan; incomplete ones come last, so that the order can be kept."""
    chosen = [plan[int(place)] for place in generator.permutation(len(plan))[:count]]
    return sorted(chosen, key=len, reverse=True)  # stable: only incomplete ones move


@dataclass(frozen=True)
class Steps:
    """Steps of training: the loss of each, before it was taken, and the seconds of all together."""

    losses: list[float]
    seconds: float


class Losses(Callback):
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step(self, trainer: Trainer) -> None:
        """Keep it."""
        self.values.append(trainer.loss_value)


def take_steps(teacher: TransformerTeacher, data: TrainingSet, batches: Batches, training: TrainingConfig) -> Steps:
    """Take our optimiser steps, one a batch, with the mean cross-entropy, as in `transformers`."""
    losses, fabric = Losses(), teacher.fabric
    context = FitContext(training, fabric, 0, "steps", (losses,), tokens_at_once(fabric))
    trainer = Trainer(teacher.classifier, Splits(data, data), CrossEntropy(), context)
    started = time.perf_counter()
    trainer._train_epoch(batches)  # with these batches instead of an epoch's own
    return Steps(losses.values, time.perf_counter() - started)


def rate(data: TrainingSet, indices: NDArray[np.int64], seconds: float) -> Run:
    """Return the rates of reading some sentences; only real tokens count, not padding."""
    tokens = int(data.tokens.lengths[indices].sum())
    return {
        "measured_sentences": len(indices),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "texts_per_second": len(indices) / seconds,
    }
