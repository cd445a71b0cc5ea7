"""What a label is: the losses, the teacher's answers as labels, and the scores that follow from it."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, log_softmax, logsigmoid

from potstill.data.encoded import UNLABELLED, Labels, is_labelled
from potstill.data.examples import Corpus
from potstill.evaluation.calibration import fit_thresholds
from potstill.evaluation.metrics import Metrics, compute_metrics
from potstill.predict.decision import predict_class, sigmoid


class Task(Protocol):
    """A kind of classification. Labels are as `data.encoded` describes them."""

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

    def scores(self, logits: NDArray[np.float32], labels: Labels) -> Metrics:
        """Score a whole split's logits, (texts, classes), as answers."""


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

    def scores(self, logits: NDArray[np.float32], labels: Labels) -> Metrics:
        """Score the most probable classes."""
        return compute_metrics(labels, predict_class(logits), logits.shape[1])


class MultiLabel:
    """Each text has any number of classes, none too: a sigmoid for each class, as if each were a task of its own.

    Both losses are sums over the classes, the negative log-likelihood and the divergence of independent Bernoulli
    variables. So alpha weighs two numbers of one scale, whatever the number of classes: the gradients by a logit are
    p - y and, with T², T · (p_T - q_T), as those of one label are by each of its logits.
    """

    def hard_loss(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Return the binary cross-entropy of each text, summed over the classes, (batch,); see `Task.hard_loss`.

        A class's weight counts for the texts that have it and for those that have not.
        """
        targets = labels.clamp(min=0).to(logits.dtype)
        losses = binary_cross_entropy_with_logits(logits, targets, class_weights, reduction="none")
        return torch.where(is_labelled(labels), losses.sum(dim=1), 0.0)

    def soft_loss(self, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """Return the sum over the classes of KL(Bernoulli(q_T) ‖ Bernoulli(p_T)), (batch,); see `Task.soft_loss`.

        Yang et al. 2023, "Multi-Label Knowledge Distillation" (arXiv 2308.06453), section 3: the task is divided into
        one of two classes for each label. Here both sides are softened, as Hinton et al. soften them.
        """
        log_p, log_q = (
            logsigmoid(torch.stack([one, -one]) / temperature) for one in (logits, teacher_logits)
        )  # (2, batch, classes): the class, and not the class
        return kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=(0, 2))

    def teacher_labels(self, teacher_logits: Tensor) -> Tensor:
        """Return 1 for the classes to which the teacher gives more than one half, else 0, (batch, classes)."""
        return (teacher_logits > 0).to(teacher_logits.dtype)

    def scores(self, logits: NDArray[np.float32], labels: Labels) -> Metrics:
        """Score the classes above thresholds that are chosen by these very labels: to compare epochs, not to report."""
        answers = predict_class(sigmoid(logits), fit_thresholds(logits, labels))
        return compute_metrics(labels, answers, logits.shape[1], logits)


SINGLE_LABEL: Final[Task] = SingleLabel()
MULTI_LABEL: Final[Task] = MultiLabel()


def task_of(corpus: Corpus) -> Task:
    """Return the kind of classification that a corpus is for."""
    return MULTI_LABEL if corpus.is_multi_label else SINGLE_LABEL
