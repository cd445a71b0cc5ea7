"""How far probabilities can be believed, and what is set on the validation split: a temperature, a threshold.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599).

Where a text may have any number of classes, labels are 0 and 1, (texts, classes), and each class has a probability of
its own, sigmoid(logit / T). One temperature serves all classes: the rare ones have too few texts for their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax

from potstill.evaluation.metrics import Classes, ConfusionCells, Floats
from potstill.predict.decision import sigmoid, softmax

Logits = NDArray[np.floating[Any]]
"""(texts, classes)."""

BINS: Final = 15
"""Bins of the confidence, as in the paper's table 1."""

TEMPERATURES: Final = (0.05, 20.0)
"""Where the temperature is looked for. A split without a mistake has its least loss at T = 0, one about whose labels
the logits say nothing at T = infinity: neither tells how sure to be, and T stays 1."""

_EQUAL: Final = 1e-12
"""MCCs that differ by less are equal but for the rounding of their quotients."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Texts that a model is about equally sure of: a point of the reliability diagram, the bin `index` from 0.

    Confidence is their mean probability of the most probable class, accuracy the share of which that is the right one.
    """

    index: int
    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """How good probabilities are on one split. A decision threshold plays no part in it.

    Attributes:
        ece: Expected calibration error, between 0 and 1. Of a text that may have several classes, each class's
            probability counts, against the share of texts that have it.
        nll: Negative log-likelihood of the labels, in nats, the mean over the texts.
        bins: The reliability diagram, without the bins that hold no text.
    """

    ece: float
    nll: float
    bins: tuple[ReliabilityBin, ...]

    @classmethod
    def of(cls, logits: Logits, labels: Classes, temperature: float = 1.0) -> Calibration:
        """Measure softmax(logits / temperature), or the sigmoid where a text may have several classes.

        Raises:
            ValueError: There are no texts, the shapes don't fit, a logit is not finite, or a label is no class.
        """
        _check(logits, labels)
        if labels.ndim > 1:
            bins = _bins(sigmoid(logits, temperature).ravel().astype(np.float64), labels.ravel() == 1, BINS)
        else:
            log_probabilities = log_softmax(logits.astype(np.float64) / temperature, axis=1)
            bins = reliability(np.exp(log_probabilities), labels)
        return cls(expected_calibration_error(bins), _nll(logits, labels, temperature), bins)


def fit_temperature(logits: Logits, labels: Classes) -> float:
    """Find the T > 0 with the least negative log-likelihood of softmax(logits / T): temperature scaling (section 4.2).

    The loss is convex in 1 / T, so what is found within `TEMPERATURES` is the only minimum there. T is 1 where no other
    is better, as for logits that are all equal, and where the loss falls beyond these bounds. The texts must not be
    those that the model was trained on; `labels` are class indices, (texts,), or 0 and 1, (texts, classes).

    Raises:
        ValueError: See `Calibration.of`.
    """
    _check(logits, labels)

    def loss(log_temperature: float) -> float:
        return _nll(logits, labels, math.exp(log_temperature))

    bounds = tuple(map(math.log, TEMPERATURES))
    found = minimize_scalar(loss, bounds=bounds, method="bounded")
    # Without a mistake the loss may be 0, rounded, long before the lower bound, and the search end anywhere there.
    is_minimum = all(found.fun < loss(other) for other in (0.0, *bounds))
    return math.exp(found.x) if is_minimum else 1.0


def reliability(probabilities: Floats, labels: Classes, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Compare confidence and accuracy in bins of equal width, ((m - 1) / bins, m / bins] (section 2).

    Returns:
        The bins that hold a text, the least confident first.
    """
    return _bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def _bins(confidences: Floats, right: NDArray[np.bool_], bins: int) -> tuple[ReliabilityBin, ...]:
    """Put the probabilities of answers, (answers,), and whether they are right, into bins."""
    places = np.searchsorted(np.arange(1, bins) / bins, confidences, side="left")  # (texts,)
    found = []
    for place in np.unique(places):
        inside = places == place
        means = float(confidences[inside].mean()), float(right[inside].mean())
        found.append(ReliabilityBin(int(place), *means, int(np.count_nonzero(inside))))
    return tuple(found)


def pool(diagrams: Iterable[Iterable[ReliabilityBin]]) -> tuple[ReliabilityBin, ...]:
    """Return one reliability diagram of the texts of several with the same bins, such as those of a few seeds."""
    together: dict[int, list[ReliabilityBin]] = {}
    for item in chain.from_iterable(diagrams):
        together.setdefault(item.index, []).append(item)
    pooled = []
    for index, items in sorted(together.items()):
        counts = [item.count for item in items]
        means = np.average([(item.confidence, item.accuracy) for item in items], axis=0, weights=counts)
        pooled.append(ReliabilityBin(index, float(means[0]), float(means[1]), sum(counts)))
    return tuple(pooled)


def expected_calibration_error(bins: Iterable[ReliabilityBin]) -> float:
    """Compute Σ (count / texts) · |accuracy - confidence| over the bins (equation 3)."""
    bins = tuple(bins)
    return sum(item.count * abs(item.accuracy - item.confidence) for item in bins) / sum(item.count for item in bins)


def fit_threshold(logits: Logits, labels: Classes, temperature: float = 1.0) -> float:
    """Find the threshold above which class 1 is to be answered, by its softmax(logits / temperature), for the best MCC.

    Among a few hundred labels the MCC goes up and down by chance from one threshold to the next, and the best of all
    would mostly be a lucky one. So labels are not counted: expected counts are added up from `expected_labels`.
    Arguments and errors as for that; the threshold is above 0 and below 1.
    """
    expected = expected_labels(logits, labels)
    return best_threshold(softmax(logits, temperature)[:, 1], expected)


def expected_labels(logits: Logits, labels: Classes) -> Floats:
    """Return how probable class 1 is for texts of these logits, by a sigmoid fitted to the labels (Platt scaling).

    Platt 1999, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods":
    p = 1 / (1 + exp(-(a · d + b))) of the logits' difference d, where a and b have the least negative
    log-likelihood. Its targets are 1 / (negatives + 2) and (positives + 1) / (positives + 2), not 0 and 1, or a would
    grow without bound where d separates the classes.

    Args:
        logits: (texts, 2), of texts that the model was not trained on.
        labels: 0 or 1, (texts,).

    Returns:
        (texts,), from 0 to 1; 0.5 for all where there is one class alone, or a higher d makes class 1 no more probable.

    Raises:
        ValueError: See `Calibration.of`; or there are not two classes.
    """
    _check(logits, labels)
    if logits.shape[1] != 2:
        raise ValueError(f"expected logits (texts, 2), found {logits.shape}")
    nothing, positives = np.full(labels.size, 0.5), int(labels.sum())
    if positives in (0, labels.size):
        return nothing
    difference = logits[:, 1].astype(np.float64) - logits[:, 0]
    scaled = difference / max(float(np.abs(difference).max()), 1e-9)  # the minimiser starts where the sigmoid has slope
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (labels.size - positives + 2))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scores = parameters[0] * scaled + parameters[1]
        errors = expit(scores) - targets
        gradient = np.array([(errors * scaled).mean(), errors.mean()])
        return float((np.logaddexp(0.0, scores) - targets * scores).mean()), gradient

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    expected: Floats = expit(slope * scaled + offset)
    return expected if slope > 0 else nothing


def fit_thresholds(logits: Logits, labels: Classes, temperature: float = 1.0) -> tuple[float, ...]:
    """Find for each class the threshold above which it is named, by its sigmoid(logit / temperature), for the best F1.

    It is the mean of two: the class's own, for the best F1 of this class, and that of all classes together, for the
    best micro-F1. Its own alone names a class that is hard to find for almost every text (Lipton et al. 2014,
    "Thresholding Classifiers to Maximize F1 Score", arXiv 1402.1892), and one for all misses the rare ones; the mean
    comes near the better micro-F1 and the better macro-F1. Of a single class, expected counts are added up from
    `expected_labels`, as for `fit_threshold`: the best threshold for a few labels is a lucky one.

    Args:
        logits: (texts, classes), of texts that the model was not trained on.
        labels: 0 and 1, (texts, classes).
        temperature: T.

    Returns:
        A number above 0 and below 1 for each class; for one of which the logits say nothing, that of all.

    Raises:
        ValueError: See `Calibration.of`.
    """
    _check(logits, labels)
    probabilities = sigmoid(logits, temperature)
    common = best_threshold(probabilities.ravel(), labels.ravel(), "f1")
    thresholds = []
    for scores, shares, present in zip(logits.T, probabilities.T, labels.T, strict=True):
        expected = expected_labels(np.stack([np.zeros_like(scores), scores], axis=1), present)
        is_known = expected.min() < expected.max()
        own = best_threshold(shares, expected, "f1") if is_known else common
        thresholds.append((own + common) / 2)
    return tuple(thresholds)


def best_threshold(probabilities: Logits, labels: Classes | Floats, score: Literal["mcc", "f1"] = "mcc") -> float:
    """Find the threshold with the best score where class 1 is answered when its probability is above the threshold.

    Tried are 0.5 and the middle between every two neighbouring probabilities; others give the answers of one of these,
    or the same answer to everything. Of equally good ones the nearest to 0.5 is taken, of two as near the lower. The
    confusion counts of all thresholds come from one sorting: O(n log n).

    Args:
        probabilities: Of class 1, (texts,), each in [0, 1].
        labels: 0 or 1, or in their place how probable class 1 is, (texts,).
        score: The MCC, or the F1 of class 1.

    Returns:
        A threshold above 0 and below 1.

    Raises:
        ValueError: There are no texts, the shapes don't fit, or a value is out of its range.
    """
    if probabilities.shape != labels.shape or labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"expected two equally long vectors, found {probabilities.shape} and {labels.shape}")
    if not all(((values >= 0) & (values <= 1)).all() for values in (probabilities, labels)):
        raise ValueError("expected probabilities and labels in [0, 1], found others")
    order = np.argsort(probabilities)
    ordered = probabilities[order].astype(np.float64)  # (texts,)
    positives = np.concatenate([[0.0], np.cumsum(labels[order])])  # (texts + 1,): class 1 among the first so many
    values = np.unique(ordered)
    # Between values that are neighbours as numbers there is no middle; the lower one then parts them as well.
    middles = np.minimum((values[:-1] + values[1:]) / 2, np.nextafter(values[1:], 0.0))
    thresholds = np.unique(np.concatenate([middles[middles > 0.0], [0.5]]))  # (thresholds,), ascending
    below = np.searchsorted(ordered, thresholds, side="right")  # answered with class 0
    misses = positives[below]  # of these, class 1
    texts, total = labels.size, positives[-1]
    # Label and answer of each column: 0 and 0, 0 and 1, 1 and 0, 1 and 1.
    counts = np.stack([below - misses, texts - below - (total - misses), misses, total - misses], axis=1)
    if score == "f1":
        scores = 2 * counts[:, 3] / np.maximum(counts[:, 1] + counts[:, 2] + 2 * counts[:, 3], _EQUAL)
    else:
        classes = np.eye(2)
        scores = ConfusionCells(counts, classes[[0, 0, 1, 1]], classes[[0, 1, 0, 1]]).scores(counts)["mcc"]
    best = thresholds[scores >= scores.max() - _EQUAL]
    return float(best[np.abs(best - 0.5).argmin()])


def _check(logits: Logits, labels: Classes) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[: labels.ndim] or labels.size == 0:
        raise ValueError(f"expected logits (texts, classes) and labels (texts,), found {logits.shape}, {labels.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("expected finite logits, found others")
    last = logits.shape[1] - 1 if labels.ndim == 1 else 1
    if labels.min() < 0 or labels.max() > last:
        raise ValueError(f"labels must be in 0..{last}, found {labels.min()}..{labels.max()}")


def _nll(logits: Logits, labels: Classes, temperature: float) -> float:
    """Return the mean of -log softmax(logits / temperature)[label], finite even where a probability is rounded to 0.

    Where a text may have several classes: of the sum over the classes of -log sigmoid(± logit / temperature).
    """
    if labels.ndim > 1:
        signed = np.where(labels == 1, -1.0, 1.0) * logits.astype(np.float64) / temperature
        return float(np.logaddexp(0.0, signed).sum(axis=1).mean())
    log_probabilities = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return -float(np.take_along_axis(log_probabilities, labels[:, None], axis=1).mean())
