"""What teachers that are asked and not tuned have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from potstill.config import TeacherConfig, UntunedConfig
from potstill.console import print_line
from potstill.data import UNLABELLED, Corpus
from potstill.data.encoded import Labels, correct
from potstill.evaluation.calibration import fit_thresholds
from potstill.evaluation.metrics import compute_metrics
from potstill.predict.decision import predict_class, probabilities_of
from potstill.teacher.base import Teacher

LEAST: Final = 1e-9
"""What counts as a probability of 0, whose logarithm is not finite."""
_SHOWN: Final = 5
"""Classes that are listed."""


def log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the logits of sigmoids, (texts, classes) as the probabilities."""
    odds: NDArray[np.float32] = logit(probabilities.clip(LEAST, 1 - LEAST)).astype(np.float32)
    return odds


class UntunedTeacher(Teacher):
    """A teacher whose answers are taken as they are, such as a file's or a server's; `coverage` says which it has."""

    settings: ClassVar[type[TeacherConfig]] = UntunedConfig
    keeps_answers = True
    config: UntunedConfig
    coverage: str = ""

    def survey(self, corpus: Corpus) -> int:
        """Say in `coverage` and on the screen which texts of the corpus it answers, and how many answers are labels.

        Where a text may have several labels, it chooses the thresholds on the validation split, too.

        Returns:
            The number of training texts that it answers.
        """
        parts = {"training": corpus.train, "validation": corpus.validation, "test": corpus.test}
        given = np.split(self.logits(corpus.everything), np.cumsum([len(part) for part in parts.values()])[:-1])
        has_answer = [np.asarray(np.isfinite(logits).all(axis=1)) for logits in given]
        counts = [f"{int(has.sum()):,} of {len(has):,} {name}" for name, has in zip(parts, has_answer, strict=True)]
        self.coverage = f"it answers {', '.join(counts)} texts"
        if has_answer[1].any() and not corpus.labels_by_teacher:
            labels, logits = corpus.validation.labels[has_answer[1]], given[1][has_answer[1]]
            answers = predict_class(probabilities_of(logits, threshold=self.threshold), self.threshold)
            share = correct(labels, answers).mean()
            self.coverage += f"; {share:.1%} of its answers to validation texts agree with the labels"
            if corpus.is_multi_label:
                self.coverage += _agreement(labels, answers, self.label_names)
                self.threshold = fit_thresholds(logits, labels)
        if cost := self.cost(corpus):
            self.coverage += f"; {cost}"
        if not corpus.labels_by_teacher or UNLABELLED in corpus.train.labels:  # else it was said before
            print_line(f"{self.config.describe()}: {self.coverage}")
        return int(has_answer[0].sum())

    def cost(self, corpus: Corpus) -> str:
        """Say what its answers to the corpus cost; by default nothing."""
        return ""

    def confident(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Replace the answers that `min_confidence` leaves out by NaN, (texts, classes)."""
        if self.config.min_confidence == 0:
            return logits
        probabilities = probabilities_of(logits, threshold=self.threshold)
        most = probabilities.max(axis=1)
        if isinstance(self.threshold, tuple):  # of all classes of the answer and of no other
            most = np.maximum(probabilities, 1 - probabilities).prod(axis=1)
        return np.where(most[:, None] >= self.config.min_confidence, logits, np.float32(np.nan))


def _agreement(labels: Labels, answers: Labels, names: Sequence[str]) -> str:
    """Say how far the single labels of answers, 0 and 1, (texts, classes), are right."""
    metrics = compute_metrics(labels, answers, len(names))
    scores = sorted((scores.f1, name) for scores, name in zip(metrics.per_class, names, strict=True) if scores.count)
    shown = ", ".join(f"{name} {score:.1%}" for score, name in scores[:_SHOWN])
    return f" in all classes; micro-F1 {metrics.micro_f1:.1%}; lowest F1: {shown}"
