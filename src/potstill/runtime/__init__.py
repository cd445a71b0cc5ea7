"""Prediction with a saved student; needs numpy, tokenizers and onnxruntime, nothing else."""

from potstill.runtime.classifier import Classifier

__all__ = ["Classifier"]
