"""The one fit loop, its schedule, and where it computes."""

from potstill.training.compute import make_fabric
from potstill.training.loop import FitResult, fit, predict_logits

__all__ = ["FitResult", "fit", "make_fabric", "predict_logits"]
