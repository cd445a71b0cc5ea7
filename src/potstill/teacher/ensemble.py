"""Several teachers as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logsumexp

from potstill.data import Examples
from potstill.predict.decision import Threshold
from potstill.store.checksums import digest
from potstill.teacher.base import Teacher
from potstill.teacher.cache import CachedTeacher
from potstill.teacher.untuned import log_odds


class Ensemble(Teacher):
    """Teachers of the same classes, whose probabilities are averaged (Hinton et al. 2015, section 5)."""

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self.teachers = tuple(teachers)
        for name in ("label_names", "in_pairs", "backbone", "tokenizer_name"):
            setattr(self, name, getattr(self.teachers[0], name))
        if thresholds := [one.threshold for one in self.teachers if isinstance(one.threshold, tuple)]:
            self.threshold = tuple(np.mean(thresholds, axis=0).tolist())

    @property
    def key(self) -> str:
        """A digest of the teachers' keys."""
        return digest([teacher.key for teacher in self.teachers])

    @property
    def parameters(self) -> tuple[int, int]:
        """All teachers' together."""
        total, trained = zip(*(teacher.parameters for teacher in self.teachers), strict=True)
        return sum(total), sum(trained)

    def describe(self) -> str:
        """Say how many teachers there are."""
        return f"{len(self.teachers)} teachers, their probabilities averaged; each is {self.teachers[0].describe()}"

    def logits(
        self, examples: Examples, *, cached: bool = True, on_batch: Callable[[int], object] = lambda _: None
    ) -> NDArray[np.float32]:
        """Return the logits of the mean probability, (texts, classes)."""
        logits = [one.logits(examples, cached=cached, on_batch=on_batch) for one in self.teachers]
        return average_logits(logits, self.threshold)


def together(teachers: Sequence[Teacher]) -> Teacher:
    """Return one teacher for one or several, each with a cache in front of it, if it needs one and has none yet."""
    has_cache = (isinstance(one, CachedTeacher | Ensemble) or one.keeps_answers for one in teachers)
    cached = [one if has else CachedTeacher(one) for one, has in zip(teachers, has_cache, strict=True)]
    return cached[0] if len(cached) == 1 else Ensemble(cached)


def average_logits(logits: Sequence[NDArray[np.float32]], threshold: Threshold = None) -> NDArray[np.float32]:
    """Return the logits of the mean of several models' probabilities, (texts, classes), from those of each model.

    Hinton et al. 2015 (arXiv 1503.02531), section 5: the logarithm of the mean probability is a logit, which a
    temperature softens like a single teacher's. A constant may be added to a text's logits; here their mean over the
    classes is the mean of the models' own, so that the average of equal models is theirs, and squared distances to a
    single model and to several have one scale. Where a `threshold` says that a text may have any number of classes, the
    logits are the log-odds of each class's mean probability.
    """
    each = np.stack(logits)  # (models, texts, classes)
    if isinstance(threshold, tuple):
        return log_odds(expit(each.astype(np.float64)).mean(axis=0))
    mean = logsumexp(log_softmax(each, axis=2), axis=0)  # (texts, classes)
    shifted: NDArray[np.float32] = mean + (each.mean(axis=(0, 2)) - mean.mean(axis=1))[:, None]
    return shifted.astype(np.float32)
