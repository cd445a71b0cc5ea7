"""What teachers that are asked and not tuned have in common."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from potstill.config import TeacherConfig, UntunedConfig
from potstill.console import print_line
from potstill.data import UNLABELLED, Corpus
from potstill.data.encoded import correct
from potstill.predict.decision import predict_class, probabilities_of
from potstill.teacher.base import Teacher

LEAST: Final = 1e-9
"""What counts as a probability of 0, whose logarithm is not finite."""


class UntunedTeacher(Teacher):
    """A teacher whose answers are taken as they are, such as a file's or a server's; `coverage` says which it has."""

    settings: ClassVar[type[TeacherConfig]] = UntunedConfig
    keeps_answers = True
    config: UntunedConfig
    coverage: str = ""

    def survey(self, corpus: Corpus) -> int:
        """Say in `coverage` and on the screen which texts of the corpus it answers, and how many answers are labels.

        Returns:
            The number of training texts that it answers.
        """
        parts = {"training": corpus.train, "validation": corpus.validation, "test": corpus.test}
        given = np.split(self.logits(corpus.everything), np.cumsum([len(part) for part in parts.values()])[:-1])
        has_answer = [np.asarray(np.isfinite(logits).all(axis=1)) for logits in given]
        counts = [f"{int(has.sum()):,} of {len(has):,} {name}" for name, has in zip(parts, has_answer, strict=True)]
        self.coverage = f"it answers {', '.join(counts)} texts"
        if has_answer[1].any() and not corpus.labels_by_teacher:
            answers = predict_class(probabilities_of(given[1], threshold=self.threshold), self.threshold)
            right = correct(corpus.validation.labels, answers)
            self.coverage += (
                f"; {right[has_answer[1]].mean():.1%} of its answers to validation texts agree with the labels"
            )
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
        certain = softmax(logits, axis=1).max(axis=1, keepdims=True)
        return np.where(certain >= self.config.min_confidence, logits, np.float32(np.nan))
