"""Scores of a classifier on one whole split, and how far they could be off.

Every score depends on labels and predictions only through the confusion matrix: `ConfusionCells` holds its occupied
cells, and `ConfusionCells.scores` is the one definition that point estimates, bootstrap and thresholds share.
scikit-learn has the same scores (the tests compare them), but for one matrix at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.integer[Any]]
"""One class index per example, (examples,)."""
Floats = NDArray[np.float64]
Intervals = dict[str, tuple[float, float]]
"""Lower and upper end per metric: "accuracy", "mcc" and "f1"."""

BOOTSTRAP_SAMPLES: Final = 2000
"""Efron and Tibshirani ask for 1000 or more. With 2000, another seed moves an end of a 95 % interval by about 6 % of a
standard error: less than the digits that a report prints."""


@dataclass(frozen=True)
class ClassScores:
    """What one model reached on one class that has `count` texts in the split; 0 where a quotient is undefined.

    Precision is the share of right answers among those that name the class, recall the share of its texts that are
    found, F1 the harmonic mean of both.
    """

    precision: float
    recall: float
    f1: float
    count: int


@dataclass(frozen=True)
class Metrics:
    """What one model reached on one split.

    Attributes:
        accuracy: Share of right answers.
        mcc: Matthews correlation coefficient, from -1 to 1; 0 for a model that always says the same.
        f1: Mean F1 of all classes that occur (macro).
        majority_accuracy: Accuracy of always answering the split's most frequent class.
        count: Examples in the split.
        per_class: Scores of each class, in the classes' order.
    """

    accuracy: float
    mcc: float
    f1: float
    majority_accuracy: float
    count: int
    per_class: tuple[ClassScores, ...]


@dataclass(frozen=True)
class ConfusionCells:
    """The occupied cells of a confusion matrix: with many classes almost all others are empty.

    Attributes:
        counts: Examples per cell, int64, (cells,).
        labelled: 1 where the cell's label is the class, float64, (cells, classes).
        predicted: 1 where the cell's prediction is the class, float64, (cells, classes).
    """

    counts: NDArray[np.int64]
    labelled: Floats
    predicted: Floats

    @classmethod
    def count(cls, labels: Classes, predictions: Classes, num_classes: int) -> ConfusionCells:
        """Count how often each pair of label and prediction occurs.

        Raises:
            ValueError: The arrays are empty, differ in shape or hold values that are no class.
        """
        if labels.shape != predictions.shape or labels.ndim != 1 or labels.size == 0:
            raise ValueError(f"expected two equally long vectors, found shapes {labels.shape} and {predictions.shape}")
        for name, values in (("labels", labels), ("predictions", predictions)):
            if values.min() < 0 or values.max() >= num_classes:
                raise ValueError(f"{name} must be in 0..{num_classes - 1}, found {values.min()}..{values.max()}")
        cells, counts = np.unique(labels.astype(np.int64) * num_classes + predictions, return_counts=True)
        label, prediction = np.divmod(cells, num_classes)
        classes = np.eye(num_classes)
        return cls(counts, classes[label], classes[prediction])

    def scores(self, counts: NDArray[np.int64] | Floats) -> dict[str, Floats]:
        """Score confusion matrices that have `counts` in these cells; an undefined quotient counts as 0.

        MCC for any number of classes: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation
        coefficient", equation 8; for two classes it is Matthews' (1975).

        Returns:
            "accuracy", "mcc" and "f1", each (...), for counts (..., cells): one matrix, or one per bootstrap sample.
        """
        hits = counts @ (self.labelled * self.predicted)  # (..., classes)
        actual = counts @ self.labelled  # (..., classes)
        answered = counts @ self.predicted  # (..., classes)
        total, right = actual.sum(-1), hits.sum(-1)  # (...)
        covariance = total * right - (actual * answered).sum(-1)
        variances = (total**2 - (actual**2).sum(-1)) * (total**2 - (answered**2).sum(-1))
        f1 = _quotient(2 * hits, actual + answered)  # (..., classes)
        # A class that is neither labelled nor predicted says nothing about the model: it is left out.
        occurring = np.count_nonzero(actual + answered, axis=-1)
        return {
            "accuracy": right / total,
            "mcc": _quotient(covariance, np.sqrt(variances)),
            "f1": _quotient(f1.sum(-1), occurring),
        }

    def per_class(self) -> tuple[ClassScores, ...]:
        """Score each class."""
        hits = self.counts @ (self.labelled * self.predicted)  # (classes,)
        actual, answered = self.counts @ self.labelled, self.counts @ self.predicted  # (classes,)
        scores = (_quotient(hits, answered), _quotient(hits, actual), _quotient(2 * hits, actual + answered))
        rows = zip(*(values.tolist() for values in scores), actual.astype(int).tolist(), strict=True)
        return tuple(ClassScores(*row) for row in rows)


def compute_metrics(labels: Classes, predictions: Classes, num_classes: int) -> Metrics:
    """Score the predictions for a whole split.

    Raises:
        ValueError: See `ConfusionCells.count`.
    """
    cells = ConfusionCells.count(labels, predictions, num_classes)
    scores = {name: float(value) for name, value in cells.scores(cells.counts).items()}
    majority = float(np.bincount(labels).max() / labels.size)
    return Metrics(**scores, majority_accuracy=majority, count=labels.size, per_class=cells.per_class())


def bootstrap_intervals(labels: Classes, predictions: Classes, num_classes: int, seed: int = 0) -> Intervals:
    """Compute 95 % percentile bootstrap intervals over examples (Efron and Tibshirani 1993, chapter 13).

    Drawing examples with replacement makes the counts of the confusion matrix multinomial, and the scores depend on
    nothing else: the counts are drawn directly.

    Raises:
        ValueError: See `ConfusionCells.count`.
    """
    cells = ConfusionCells.count(labels, predictions, num_classes)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(labels.size, cells.counts / labels.size, size=BOOTSTRAP_SAMPLES)  # (samples, cells)
    tail = (1 - 0.95) / 2
    ends = {name: np.quantile(scores, (tail, 1 - tail)) for name, scores in cells.scores(draws).items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _quotient(numerator: Any, denominator: Any) -> Floats:
    """Divide elementwise, 0 where the denominator is 0."""
    quotient: Floats = np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)
    return quotient
