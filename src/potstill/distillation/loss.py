"""The distillation loss.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2:

    L = alpha · CE(y, p) + (1 - alpha) · T² · KL(q_T ‖ p_T)

with p = softmax(z) of the student's logits z, p_T = softmax(z / T), q_T = softmax(v / T) of the teacher's logits v. The
gradients of the soft term shrink as 1/T²; the factor T² keeps both terms' proportion when T changes.

A text of the transfer set has no label y: its loss is the teacher's term alone, at full weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from potstill.config import Imitation
from potstill.data.examples import UNLABELLED
from potstill.data.tokenised import Batch, TrainingSet
from potstill.errors import TrainingError
from potstill.evaluation.metrics import compute_metrics
from potstill.training.loop import Record


def soft_divergences(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(teacher ‖ student) at temperature T of each text, (batch,).

    It is the true divergence, the teacher's entropy included: 0 for equal logits, never below.

    Args:
        student: Logits, (batch, classes).
        teacher: Logits, (batch, classes).
        temperature: T.
    """
    log_p = log_softmax(student / temperature, dim=1)
    log_q = log_softmax(teacher / temperature, dim=1)
    # Summed over the classes: PyTorch's default would average over them too and shrink the loss.
    return kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1) * temperature**2


@dataclass(frozen=True)
class Objective:
    """What a classifier is fitted to: the labels, the teacher's judgement, or both.

    With an `alpha` of 1, that of teacher and baseline, only the labels count and no teacher is asked for.

    Attributes:
        alpha: Weight of the labels, where a text has one.
        temperature: T.
        imitation: How the distance to the teacher is measured: `kl` as above; `mse`, half the squared distance of the
            logits, which `kl` tends to as T grows (Hinton et al., section 2.1, but for a constant) and without a T
            (Ba and Caruana 2014, arXiv 1312.6184, equation 1); `hard`, the cross-entropy with the teacher's answer.
        class_weights: How much a label of each class counts, (classes,); None: all the same.
    """

    alpha: float = 1.0
    temperature: float = 1.0
    imitation: Imitation = "kl"
    class_weights: Tensor | None = None

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher's logits count at all."""
        return self.alpha != 1.0

    def __call__(self, logits: Tensor, targets: Batch | TrainingSet) -> dict[str, Tensor]:
        """Compute the loss and its parts.

        Args:
            logits: (batch, classes).
            targets: Labels and, unless alpha is 1, the teacher's logits.

        Returns:
            `loss`, a weighted mean over the batch; `ce`, the mean over the texts with a label; and, where a teacher is
            used, the mean distance to it under the name of `imitation`.

        Raises:
            TrainingError: A teacher is needed and there is none.
        """
        labels = targets.labels
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        ce = cross_entropy(logits, labels, weights, ignore_index=UNLABELLED, reduction="none")
        parts = {"ce": ce.sum() / (labels != UNLABELLED).sum().clamp(min=1)}
        losses = ce
        if self.needs_teacher:
            if targets.teacher_logits is None:
                raise TrainingError(
                    f"alpha = {self.alpha} needs a teacher's logits, found none; alpha 1 needs no teacher"
                )
            distances = self._distances(logits, targets.teacher_logits)
            parts[self.imitation] = distances.mean()
            alphas = torch.where(labels == UNLABELLED, 0.0, self.alpha)
            losses = alphas * ce + (1.0 - alphas) * distances
        if targets.weights is not None:
            losses = losses * targets.weights
        return {"loss": losses.mean(), **parts}

    def score(self, logits: Tensor, data: TrainingSet) -> Record:
        """Score a split from its whole predictions: a mean of batch means would weigh a short last batch double."""
        parts = {f"selection_{name}": float(value) for name, value in self(logits, data).items()}
        metrics = compute_metrics(data.labels.numpy(), logits.argmax(dim=1).numpy(), logits.shape[1])
        return parts | {"accuracy": metrics.accuracy, "mcc": metrics.mcc, "f1": metrics.f1}

    def _distances(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.imitation == "kl":
            return soft_divergences(student, teacher, self.temperature)
        if self.imitation == "mse":
            return 0.5 * (student - teacher).square().sum(dim=1)
        return cross_entropy(student, teacher.argmax(dim=1), reduction="none")


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return the weight of each class that lets all of them count the same, 1 for the average text.

    Args:
        labels: Class indices, (texts,); those without a label are passed over.
        num_classes: Number of classes; one that does not occur gets 0.
    """
    counts = labels[labels != UNLABELLED].bincount(minlength=num_classes).double()
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0).float()
