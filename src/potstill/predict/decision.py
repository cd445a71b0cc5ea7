"""From a model's scores to its answer: probabilities at its temperature, and the class that it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

Threshold = float | tuple[float, ...] | None
"""Which classes the probabilities name, see `predict_class`. A tuple, a number for each class, also says that a text
may have any number of classes (multi-label)."""

if TYPE_CHECKING:
    from potstill.predict.directory import LabelType


def softmax(logits: npt.NDArray[np.float32], temperature: float = 1.0) -> npt.NDArray[np.float32]:
    """Turn logits z into probabilities at a temperature T, exp(z / T) / Σ exp(z / T), both (texts, classes)."""
    scaled = logits / np.float32(temperature)
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))  # (texts, classes); 1 at most, so no overflow
    probabilities: npt.NDArray[np.float32] = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


def sigmoid(logits: npt.NDArray[np.float32], temperature: float = 1.0) -> npt.NDArray[np.float32]:
    """Turn logits z into the probability of each class by itself, 1 / (1 + exp(-z / T)), both (texts, classes)."""
    halved: npt.NDArray[np.float32] = 0.5 + 0.5 * np.tanh(logits / np.float32(2 * temperature))  # without overflow
    return halved


def probabilities_of(
    logits: npt.NDArray[np.float32], temperature: float = 1.0, threshold: Threshold = None
) -> npt.NDArray[np.float32]:
    """Turn a model's logits into its probabilities, both (texts, classes): `softmax`, or multi-label `sigmoid`."""
    return sigmoid(logits, temperature) if isinstance(threshold, tuple) else softmax(logits, temperature)


def predict_class(probabilities: npt.NDArray[np.floating[Any]], threshold: Threshold = None) -> npt.NDArray[np.int64]:
    """Choose each text's class, or classes; the one place where that is decided.

    Args:
        probabilities: (texts, classes).
        threshold: Of two classes, the second is the answer where its probability is above this, which need not be where
            it is the more probable one. None: the most probable class, the first of equal ones, which for two classes
            is what a threshold of 0.5 gives. A tuple: a text has every class whose probability is above its own.

    Returns:
        Class indices, (texts,); with a tuple 1 for the classes that a text has, else 0, (texts, classes).
    """
    if isinstance(threshold, tuple):
        return (probabilities.astype(np.float64) > np.array(threshold)).astype(np.int64)
    if threshold is None:
        classes: npt.NDArray[np.int64] = probabilities.argmax(axis=1)
        return classes
    # In float64, or the threshold would be rounded to float32, maybe past a probability that lies next to it.
    return (probabilities[:, 1].astype(np.float64) > threshold).astype(np.int64)


def named(
    answers: npt.NDArray[np.integer[Any]], names: Sequence[Any], unsure: npt.NDArray[np.bool_] | None = None
) -> list[Any]:
    """Return the name of each text's class, or of answers (texts, classes) the list of its classes' names.

    It is None for a text of which the model is `unsure`, (texts,), see `abstains`.
    """
    if unsure is not None:
        return [None if skipped else name for name, skipped in zip(named(answers, names), unsure, strict=True)]
    if answers.ndim == 1:
        return [names[index] for index in answers.tolist()]
    return [[names[index] for index in np.flatnonzero(row == 1).tolist()] for row in answers]


def confidence(
    probabilities: npt.NDArray[np.floating[Any]], answers: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.float64]:
    """Return the probability of each answer, a class index, (texts,); `probabilities` are (texts, classes).

    Of answers that are sets of classes, 0 and 1, (texts, classes): that of just these classes and no other, as if they
    were independent.
    """
    if answers.ndim == 1:
        return np.take_along_axis(probabilities, answers[:, None], axis=1)[:, 0].astype(np.float64)
    exact = probabilities.astype(np.float64)
    return np.asarray(np.where(answers == 1, exact, 1 - exact).prod(axis=1))


def abstains(
    probabilities: npt.NDArray[np.floating[Any]], answers: npt.NDArray[np.int64], min_confidence: float | None
) -> npt.NDArray[np.bool_]:
    """Say of each text whether its answer is too improbable to be given, (texts,); None: of none. See `confidence`."""
    if min_confidence is None:
        return np.zeros(len(answers), dtype=np.bool_)
    return confidence(probabilities, answers) < min_confidence


def typed_labels(names: Sequence[str], kind: LabelType) -> npt.NDArray[Any]:
    """Return the labels of the training data, (classes,), by their names; names that are not of this type stay."""
    try:
        if kind == "bool":
            return np.array([name.lower() == "true" for name in names])
        found = np.array([{"int": int, "float": float, "str": str}[kind](name) for name in names])
        return found if kind != "float" or np.isfinite(found).all() else np.array(names)  # JSON has no infinity
    except ValueError:
        return np.array(names)
