"""How far the scores could be off because the split holds only so many examples."""

from __future__ import annotations

import numpy as np

from potstill.evaluation.metrics import Classes, ConfusionCells

Intervals = dict[str, tuple[float, float]]
"""Lower and upper end per metric: "accuracy", "mcc" and "f1"."""

BOOTSTRAP_SAMPLES = 2000
"""Efron and Tibshirani ask for 1000 or more. With 2000, 50 lie beyond each end of a 95 % interval, and an end moves by
about 6 % of a standard error from one seed to another: less than the digits that a report prints."""


def bootstrap_intervals(
    labels: Classes,
    predictions: Classes,
    num_classes: int,
    samples: int = BOOTSTRAP_SAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Compute percentile bootstrap intervals over examples (Efron and Tibshirani 1993, chapter 13).

    Drawing examples with replacement makes the counts of the confusion matrix multinomial. The scores depend on nothing
    else, so the counts are drawn directly: the same distribution without ever touching single examples.

    Raises:
        ValueError: The arrays are empty, differ in shape or hold values that are no class.
    """
    cells = ConfusionCells.count(labels, predictions, num_classes)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(labels.size, cells.counts / labels.size, size=samples)  # (samples, cells)
    tail = (1 - confidence) / 2
    intervals = {}
    for name, scores in cells.scores(draws).items():
        low, high = np.quantile(scores, (tail, 1 - tail))
        intervals[name] = (float(low), float(high))
    return intervals
