"""The distillation loss.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2:

    L = alpha · CE(y, p) + (1 - alpha) · T² · KL(q_T ‖ p_T)

with p = softmax(z) of the student's logits z, p_T = softmax(z / T), q_T = softmax(v / T) of the teacher's logits v. The
gradients of the soft term shrink as 1/T²; the factor T² keeps both terms' proportion when T changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from potstill.errors import TrainingError


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(teacher ‖ student) at temperature T, the mean over the batch.

    It is the true divergence, the teacher's entropy included: 0 for equal logits, never below.

    Args:
        student: Logits, (batch, classes).
        teacher: Logits, (batch, classes).
        temperature: T.
    """
    log_p = log_softmax(student / temperature, dim=1)
    log_q = log_softmax(teacher / temperature, dim=1)
    # "batchmean" divides by the batch; PyTorch's default would divide by batch · classes and shrink the loss.
    return kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True)
class Objective:
    """What a model is fitted to: the labels, the teacher's judgement, or both.

    Teacher, distilled student and baseline differ in `alpha` alone: 1 means the labels only, and then no teacher is
    asked for.
    """

    alpha: float = 1.0
    temperature: float = 1.0

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher's logits count at all."""
        return self.alpha != 1.0

    def __call__(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]:
        """Compute the loss and its parts, each a mean over the batch.

        Args:
            logits: (batch, classes).
            labels: (batch,).
            teacher_logits: (batch, classes); needed unless alpha is 1.

        Returns:
            `loss`, `ce` and, where a teacher is used, `kl` (already times T²).

        Raises:
            TrainingError: A teacher is needed and there is none.
        """
        ce = cross_entropy(logits, labels)
        if not self.needs_teacher:
            return {"loss": ce, "ce": ce}
        if teacher_logits is None:
            raise TrainingError(f"alpha = {self.alpha} needs a teacher's logits, found none; alpha 1 needs no teacher")
        kl = soft_divergence(logits, teacher_logits, self.temperature)
        return {"loss": self.alpha * ce + (1.0 - self.alpha) * kl, "ce": ce, "kl": kl}
