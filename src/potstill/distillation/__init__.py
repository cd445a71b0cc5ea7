"""Knowledge distillation: the loss, and the teacher's judgement that it compares with."""

from potstill.distillation.loss import Objective, soft_divergence

__all__ = ["Objective", "soft_divergence"]
