"""Scores of a classifier on one whole split.

Every score here depends on the labels and predictions only through the confusion matrix: `ConfusionCells` holds its
occupied cells, and `ConfusionCells.scores` is the one definition that point estimates and bootstrap share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.integer[Any]]
"""One class index per example, shape (examples,)."""
Floats = NDArray[np.float64]

BINARY_POSITIVE = 1
"""The class whose F1 is reported when there are two: CoLA's and scikit-learn's choice."""


@dataclass(frozen=True)
class Metrics:
    """What one model reached on one split.

    Attributes:
        accuracy: Share of right answers.
        mcc: Matthews correlation coefficient, between -1 and 1; 0 when the model always says the same.
        f1: Two classes: F1 of class 1. More: mean of the F1 of every class that occurs (macro).
        majority_accuracy: Accuracy of always answering the split's most frequent class.
        count: Examples in the split.
    """

    accuracy: float
    mcc: float
    f1: float
    majority_accuracy: float
    count: int


@dataclass(frozen=True)
class ConfusionCells:
    """The occupied cells of a confusion matrix.

    With many classes almost all cells are empty: keeping the occupied ones bounds the bootstrap's memory by the number
    of examples instead of the squared number of classes.

    Attributes:
        counts: Examples per cell, int64, shape (cells,).
        labelled: 1 where the cell's label is the class, float64, shape (cells, classes).
        predicted: 1 where the cell's prediction is the class, float64, shape (cells, classes).
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
        """Score confusion matrices that have `counts` in these cells.

        MCC for any number of classes: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation
        coefficient", equation 8; for two classes it is Matthews' (1975). An undefined quotient counts as 0.

        Args:
            counts: Shape (..., cells): one matrix, or one per bootstrap sample.

        Returns:
            "accuracy", "mcc" and "f1", each of shape (...).
        """
        hits = counts @ (self.labelled * self.predicted)  # (..., classes)
        actual = counts @ self.labelled  # (..., classes)
        answered = counts @ self.predicted  # (..., classes)
        total = actual.sum(-1)  # (...)
        right = hits.sum(-1)  # (...)

        covariance = total * right - (actual * answered).sum(-1)
        label_variance = total**2 - (actual**2).sum(-1)
        answer_variance = total**2 - (answered**2).sum(-1)
        return {
            "accuracy": right / total,
            "mcc": _quotient(covariance, np.sqrt(label_variance * answer_variance)),
            "f1": _f1(hits, actual + answered),
        }


def compute_metrics(labels: Classes, predictions: Classes, num_classes: int) -> Metrics:
    """Score the predictions for a whole split.

    Raises:
        ValueError: The arrays are empty, differ in shape or hold values that are no class.
    """
    cells = ConfusionCells.count(labels, predictions, num_classes)
    scores = {name: float(value) for name, value in cells.scores(cells.counts).items()}
    return Metrics(**scores, majority_accuracy=float(np.bincount(labels).max() / labels.size), count=labels.size)


def _f1(hits: Floats, marked: Floats) -> Floats:
    """Compute F1 = 2·TP / (actual + answered) from counts of shape (..., classes)."""
    per_class = _quotient(2 * hits, marked)
    if per_class.shape[-1] == 2:
        return per_class[..., BINARY_POSITIVE]
    # A class that is neither labelled nor predicted says nothing about the model: it is left out, as in scikit-learn.
    return _quotient(per_class.sum(-1), np.count_nonzero(marked, axis=-1))


def _quotient(numerator: Any, denominator: Any) -> Floats:
    """Divide elementwise, 0 where the denominator is 0."""
    quotient: Floats = np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)
    return quotient
