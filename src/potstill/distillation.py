"""The losses of classification: the labels' cross-entropy, and knowledge distillation.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2:

    L = alpha · CE(y, p) + (1 - alpha) · T² · KL(q_T ‖ p_T)

with p = softmax(z) of the student's logits z, p_T = softmax(z / T), q_T = softmax(v / T) of the teacher's logits v. The
gradients of the soft term shrink as 1/T²; the factor T² keeps both terms' proportion when T changes.

Where a text may have any number of classes, p and q are probabilities of each class by itself, and both terms sums over
the classes: see `task.MultiLabel`.

A text without a label y has the teacher's term alone, at full weight, and one without an answer of the teacher (its
logits are NaN) the label's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from potstill.config import SoftLoss, TrainingConfig
from potstill.data.encoded import class_counts, is_labelled
from potstill.data.examples import Corpus
from potstill.data.tokenised import Batch, TrainingSet
from potstill.errors import TrainingError
from potstill.task import SINGLE_LABEL, Task
from potstill.training.base import Record


@dataclass(frozen=True)
class CrossEntropy:
    """The labels alone: what teachers and baselines are fitted to.

    Attributes:
        class_weights: How much a label of each class counts, (classes,); None: all the same.
        task: What a label is.
    """

    class_weights: Tensor | None = None
    task: Task = SINGLE_LABEL

    def __call__(self, logits: Tensor, targets: Batch | TrainingSet) -> dict[str, Tensor]:
        """Return `loss`, the mean over the batch, and `ce`, the mean over the texts with a label.

        Args:
            logits: (batch, classes).
            targets: The labels.
        """
        ce = self.hard_losses(logits, targets)
        return {"loss": ce.mean(), "ce": self.mean_over_labelled(ce, targets)}

    def hard_losses(self, logits: Tensor, targets: Batch | TrainingSet) -> Tensor:
        """Return each text's cross-entropy, (batch,); 0 without a label."""
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        return self.task.hard_loss(logits, targets.labels, weights)

    def mean_over_labelled(self, losses: Tensor, targets: Batch | TrainingSet) -> Tensor:
        """Return the mean over the texts with a label."""
        labelled: Tensor = is_labelled(targets.labels)
        return losses.sum() / labelled.sum().clamp(min=1)

    def score(self, logits: Tensor, data: TrainingSet) -> Record:
        """Score a split from its whole predictions: a mean of batch means would weigh a short last batch double."""
        parts = {f"validation_{name}": float(value) for name, value in self(logits, data).items()}
        return parts | self.task.scores(logits.numpy(), data.labels.numpy()).of_answers


@dataclass(frozen=True)
class Distillation(CrossEntropy):
    """The labels and the teacher's softened probabilities.

    Attributes:
        alpha: Weight of the labels, where a text has one. 1: the teacher is not asked.
        temperature: T.
        kind: How the distance to the teacher is measured: `kl` as above; `mse`, half the squared distance of the
            logits, which `kl` tends to as T grows (Hinton et al., section 2.1, but for a constant) and which has no T
            (Ba and Caruana 2014, arXiv 1312.6184, equation 1); `hard`, the cross-entropy with the teacher's answer.
    """

    alpha: float = 0.5
    temperature: float = 2.0
    kind: SoftLoss = "kl"

    def __call__(self, logits: Tensor, targets: Batch | TrainingSet) -> dict[str, Tensor]:
        """Compute the loss and its parts.

        Args:
            logits: (batch, classes).
            targets: Labels and, unless alpha is 1, the teacher's logits.

        Returns:
            `loss`, the mean over the batch; `ce`, the mean over the texts with a label; and the mean distance to the
            teacher under the name of `kind`.

        Raises:
            TrainingError: A teacher is needed and there is none.
        """
        if self.alpha == 1.0:
            return super().__call__(logits, targets)
        if targets.teacher_logits is None:
            raise TrainingError(f"alpha = {self.alpha} needs a teacher's logits, found none; alpha 1 needs no teacher")
        hard = self.hard_losses(logits, targets)  # (batch,)
        answered = targets.teacher_logits.isfinite().all(dim=1)
        soft = self._soft_losses(logits, targets.teacher_logits.nan_to_num())  # (batch,)
        alphas = torch.where(is_labelled(targets.labels), self.alpha, 0.0)
        alphas, soft = torch.where(answered, alphas, 1.0), torch.where(answered, soft, 0.0)
        loss = (alphas * hard + (1.0 - alphas) * soft).mean()
        distance = soft.sum() / answered.sum().clamp(min=1)
        return {"loss": loss, "ce": self.mean_over_labelled(hard, targets), self.kind: distance}

    def _soft_losses(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.kind == "kl":
            return self.temperature**2 * self.task.soft_loss(student, teacher, self.temperature)
        if self.kind == "mse":
            return 0.5 * (student - teacher).square().sum(dim=1)
        return self.task.hard_loss(student, self.task.teacher_labels(teacher))


def class_weights(config: TrainingConfig, corpus: Corpus) -> Tensor | None:
    """Return how much a label of each class counts in training, (classes,); None: all the same."""
    if config.class_weights == "none":
        return None
    return balanced_weights(torch.from_numpy(corpus.train.labels), corpus.num_classes)


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return the weight of each class that lets all of them count the same, 1 for the average text.

    Args:
        labels: As `Examples` holds them; texts without a label are passed over.
        num_classes: Number of classes; one that does not occur gets 0.
    """
    counts = torch.from_numpy(class_counts(labels.numpy(), num_classes)).double()
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0).float()
