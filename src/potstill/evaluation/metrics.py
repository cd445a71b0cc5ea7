"""Scores of a classifier on one whole split, and how far they could be off.

Every score depends on labels and predictions only through the confusion matrix: `ConfusionCells` holds its occupied
cells, and `ConfusionCells.scores` is the one definition that point estimates, bootstrap and thresholds share.
scikit-learn has the same scores (the tests compare them), but for one matrix at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from potstill.data.encoded import majority_share

Classes = NDArray[np.integer[Any]]
"""One class index per example, (examples,), or of a task with several classes per text 0 and 1, (examples, classes)."""
Floats = NDArray[np.float64]
Intervals = dict[str, tuple[float, float]]
"""Lower and upper end per metric: "accuracy", "mcc" and "f1", and "micro_f1" where a text may have several classes."""

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

    Where a text may have any number of classes, an answer is right if it names all of them and no other (subset
    accuracy), the MCC is the mean of the classes' own, and there are:

    Attributes:
        micro_f1: F1 of all pairs of text and class together.
        ranking_loss: Mean share of a text's pairs of a class that it has and one that it has not in which the second is
            the more probable; 0 is best (Tsoumakas et al. 2010, "Mining Multi-label Data", section 7.2).
        ranking_precision: Label ranking average precision: mean, over the classes that a text has, of the share of its
            own classes among those that are at least as probable; 1 is best. Both are None where there are no scores.
    """

    accuracy: float
    mcc: float
    f1: float
    majority_accuracy: float
    count: int
    per_class: tuple[ClassScores, ...]
    micro_f1: float | None = None
    ranking_loss: float | None = None
    ranking_precision: float | None = None

    @property
    def of_answers(self) -> dict[str, float]:
        """The scores of the answers as a whole, by name."""
        scores = {name: getattr(self, name) for name in ("accuracy", "mcc", "f1", "micro_f1")}
        return {name: score for name, score in scores.items() if score is not None}


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
    def count(cls, labels: Classes, predictions: Classes, num_classes: int) -> Self:
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


@dataclass(frozen=True)
class LabelSetCells(ConfusionCells):
    """The same where a text may have any number of classes: a cell is a set of labels with a set of answers."""

    @classmethod
    def count(cls, labels: Classes, predictions: Classes, num_classes: int) -> Self:
        """Count how often each row of labels occurs with each row of predictions, both (examples, classes), 0 or 1.

        Raises:
            ValueError: The arrays are empty, differ in shape or hold other values.
        """
        if labels.shape != predictions.shape or labels.shape[1:] != (num_classes,) or labels.size == 0:
            expected = f"expected two arrays (examples, {num_classes})"
            raise ValueError(f"{expected}, found shapes {labels.shape} and {predictions.shape}")
        both = np.concatenate([labels, predictions], axis=1).astype(np.int8)
        if not np.isin(both, (0, 1)).all():
            raise ValueError(f"labels and predictions must be 0 or 1, found {both.min()}..{both.max()}")
        cells, counts = np.unique(both, axis=0, return_counts=True)
        labelled, predicted = np.split(cells.astype(np.float64), 2, axis=1)
        return cls(counts, labelled, predicted)

    def scores(self, counts: NDArray[np.int64] | Floats) -> dict[str, Floats]:
        """Return "accuracy", "mcc", "f1" and "micro_f1", see `Metrics`; shapes as for `ConfusionCells.scores`."""
        hits = counts @ (self.labelled * self.predicted)  # (..., classes)
        actual, answered = counts @ self.labelled, counts @ self.predicted  # (..., classes)
        total = counts.sum(-1, keepdims=True)  # (..., 1)
        variances = actual * (total - actual) * (answered * (total - answered))
        mcc = _quotient(total * hits - actual * answered, np.sqrt(variances))  # (..., classes)
        occurring = np.count_nonzero(actual + answered, axis=-1)
        f1 = _quotient(2 * hits, actual + answered)  # (..., classes)
        return {
            "accuracy": counts @ (self.labelled == self.predicted).all(axis=1) / total[..., 0],
            "mcc": _quotient(mcc.sum(-1), occurring),
            "f1": _quotient(f1.sum(-1), occurring),
            "micro_f1": _quotient(2 * hits.sum(-1), (actual + answered).sum(-1)),
        }


def compute_metrics(
    labels: Classes, predictions: Classes, num_classes: int, scores: NDArray[np.floating[Any]] | None = None
) -> Metrics:
    """Score the predictions for a whole split.

    Args:
        labels: As `data.encoded` describes them; the shape tells the task.
        predictions: Likewise.
        num_classes: Number of classes.
        scores: Logits or probabilities, (examples, classes), which rank the classes of a text that may have several.

    Raises:
        ValueError: See `ConfusionCells.count`.
    """
    cells = _cells(labels, predictions, num_classes)
    values = {name: float(value) for name, value in cells.scores(cells.counts).items()}
    if labels.ndim > 1 and scores is not None:
        from sklearn.metrics import label_ranking_average_precision_score, label_ranking_loss

        values["ranking_loss"] = float(label_ranking_loss(labels, scores))
        values["ranking_precision"] = float(label_ranking_average_precision_score(labels, scores))
    majority = majority_share(labels)
    return Metrics(**values, majority_accuracy=majority, count=len(labels), per_class=cells.per_class())


def _cells(labels: Classes, predictions: Classes, num_classes: int) -> ConfusionCells:
    kind = ConfusionCells if labels.ndim == 1 else LabelSetCells
    return kind.count(labels, predictions, num_classes)


def bootstrap_intervals(labels: Classes, predictions: Classes, num_classes: int, seed: int = 0) -> Intervals:
    """Compute 95 % percentile bootstrap intervals over examples (Efron and Tibshirani 1993, chapter 13).

    Drawing examples with replacement makes the counts of the confusion matrix multinomial, and the scores depend on
    nothing else: the counts are drawn directly.

    Raises:
        ValueError: See `ConfusionCells.count`.
    """
    cells = _cells(labels, predictions, num_classes)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(labels), cells.counts / len(labels), size=BOOTSTRAP_SAMPLES)  # (samples, cells)
    tail = (1 - 0.95) / 2
    ends = {name: np.quantile(scores, (tail, 1 - tail)) for name, scores in cells.scores(draws).items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _quotient(numerator: Any, denominator: Any) -> Floats:
    quotient: Floats = np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)
    return quotient
