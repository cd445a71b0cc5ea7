"""What a label is: the losses, the decoding and the metrics that follow from it."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from potstill.data.examples import UNLABELLED, Corpus
from potstill.evaluation.metrics import Metrics, compute_metrics
from potstill.predict.decision import predict_class


class Task(Protocol):
    """A kind of classification."""

    def hard_loss(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Return each text's distance to its label, (batch,); 0 for texts without one.

        Args:
            logits: (batch, classes).
            labels: As `Examples` holds them.
            class_weights: How much a label of each class counts, (classes,); None: all the same.
        """

    def soft_loss(self, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """Return each text's divergence from the teacher's probabilities, both softened by `temperature`, (batch,).

        Args:
            logits: (batch, classes).
            teacher_logits: (batch, classes).
            temperature: T.
        """

    def teacher_labels(self, teacher_logits: Tensor) -> Tensor:
        """Return the teacher's answers as labels."""

    def is_labelled(self, labels: Tensor) -> Tensor:
        """Say of each text whether it has a label, (batch,)."""

    def decode(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """Turn logits, (texts, classes), into predictions."""

    def metrics(self, labels: NDArray[np.int64], predictions: NDArray[np.int64], num_classes: int) -> Metrics:
        """Score a whole split's predictions."""


class SingleLabel:
    """Each text has exactly one class: softmax over the classes."""

    def hard_loss(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Return the cross-entropy of each text, (batch,); see `Task.hard_loss`."""
        return cross_entropy(logits, labels, class_weights, ignore_index=UNLABELLED, reduction="none")

    def soft_loss(self, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """Return KL(q_T ‖ p_T) of each text, (batch,); see `Task.soft_loss`.

        It is the true divergence, the teacher's entropy included: 0 for equal logits, never below.
        """
        log_p = log_softmax(logits / temperature, dim=1)
        log_q = log_softmax(teacher_logits / temperature, dim=1)
        # Summed over the classes: PyTorch's default would average over them too and shrink the loss.
        return kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1)

    def teacher_labels(self, teacher_logits: Tensor) -> Tensor:
        """Return the teacher's most probable classes, (batch,)."""
        return teacher_logits.argmax(dim=1)

    def is_labelled(self, labels: Tensor) -> Tensor:
        """Say of each text whether it has a label, (batch,)."""
        return labels != UNLABELLED

    def decode(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the most probable classes, (texts,)."""
        return predict_class(logits)

    def metrics(self, labels: NDArray[np.int64], predictions: NDArray[np.int64], num_classes: int) -> Metrics:
        """Score a whole split's predictions: accuracy, MCC, F1."""
        return compute_metrics(labels, predictions, num_classes)


SINGLE_LABEL: Final[Task] = SingleLabel()


def task_of(corpus: Corpus) -> Task:
    """Return the kind of classification that a corpus is for."""
    return SINGLE_LABEL
