"""Labels as arrays, whose shape tells the task.

- A text has one class: class indices, int64, (texts,).
- A text has any number of classes (multi-label): int8, (texts, classes), 1 for the classes that it has, else 0.

All values of a text without a label are `UNLABELLED`; a text that has none of the classes has a label.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from potstill.predict.decision import named

UNLABELLED: Final = -1
"""The class index of a text without a label."""
Labels = NDArray[np.integer[Any]]


def is_labelled(labels: Any) -> Any:
    """Say of each text whether it has a label, (texts,), bool; takes tensors as well."""
    return (labels if labels.ndim == 1 else labels[:, 0]) != UNLABELLED


def has_class(labels: Labels, index: int) -> NDArray[np.bool_]:
    """Say of each text whether it has the class, (texts,)."""
    return np.asarray(labels == index if labels.ndim == 1 else labels[:, index] == 1)


def class_counts(labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Count the texts of each class, (classes,)."""
    known = labels[is_labelled(labels)]
    if labels.ndim == 1:
        return np.bincount(known, minlength=num_classes)
    counts: NDArray[np.int64] = known.sum(axis=0, dtype=np.int64)
    return counts


def unlabelled(count: int, like: Labels) -> Labels:
    """Return the labels of `count` texts without one, of the shape and type of others."""
    return np.full((count, *like.shape[1:]), UNLABELLED, like.dtype)


def always(index: int, like: Labels) -> Labels:
    """Return the answers of a model that answers every text with this class alone."""
    answers = np.zeros_like(like)
    answers[(slice(None), index)[: like.ndim]] = index if like.ndim == 1 else 1
    return answers


def most_frequent(labels: Labels) -> int:
    """Return the class that most texts have."""
    return int(class_counts(labels, 1).argmax())


def correct(labels: Labels, answers: Labels) -> NDArray[np.bool_]:
    """Say of each text whether the answer to it is right, (texts,): all its classes and no other."""
    same: NDArray[np.bool_] = labels == answers
    return same if labels.ndim == 1 else np.asarray(same.all(axis=1))


def majority_share(labels: Labels) -> float:
    """Return the share of texts to which the most frequent class alone is the right answer."""
    return float(correct(labels, always(most_frequent(labels), labels)).mean())


def strata(labels: Labels) -> NDArray[np.int64]:
    """Return the class by which each text is stratified, (texts,): of several its rarest; of none another number."""
    if labels.ndim == 1:
        return labels.astype(np.int64)
    rarest_first = np.argsort(class_counts(labels, labels.shape[1]), kind="stable")
    has_any = (labels == 1).any(axis=1)
    rarest: NDArray[np.int64] = rarest_first[np.argmax(labels[:, rarest_first] == 1, axis=1)]
    return np.where(has_any, rarest, labels.shape[1])


def keys(labels: Labels) -> list[Hashable]:
    """Return what is equal for texts that have the same label, or the same labels."""
    return labels.tolist() if labels.ndim == 1 else [row.tobytes() for row in labels]


def in_words(labels: Labels, names: Sequence[str]) -> list[str]:
    """Name each text's label, or its labels, in one string."""
    return [one if isinstance(one, str) else ", ".join(one) or "no class" for one in named(labels, names)]
