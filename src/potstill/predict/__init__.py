"""Prediction with a saved student; needs numpy, tokenizers and onnxruntime, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.predict.classifier import Classifier

__all__ = ["Classifier"]


def __getattr__(name: str) -> Any:
    """Import the classifier when it is first used: `potstill.predict.wording` alone needs nothing."""
    if name != "Classifier":
        raise AttributeError(f"module 'potstill.predict' has no attribute {name!r}")
    from potstill.predict.classifier import Classifier

    return Classifier
