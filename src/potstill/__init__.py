"""Potstill: labelled text in, a classifier small and fast enough to run anywhere out.

Names are imported when they are first used: `Classifier` needs no torch, the rest comes with the extra `train`.
"""

from __future__ import annotations

import importlib
import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.config import PotstillConfig
    from potstill.data import Corpus, Examples, load_corpus, read_examples
    from potstill.evaluation.measure import measure
    from potstill.experiment.estimator import PotstillClassifier
    from potstill.experiment.run import run, unlabelled_set
    from potstill.experiment.saved import open_model
    from potstill.experiment.stages import distill, finetune, train
    from potstill.predict import Classifier
    from potstill.teacher.base import Teacher

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reads it when it is imported

_HOMES = {
    "Classifier": "potstill.predict",
    "Corpus": "potstill.data",
    "Examples": "potstill.data",
    "PotstillClassifier": "potstill.experiment.estimator",
    "PotstillConfig": "potstill.config",
    "Teacher": "potstill.teacher.base",
    "distill": "potstill.experiment.stages",
    "finetune": "potstill.experiment.stages",
    "load_corpus": "potstill.data",
    "measure": "potstill.evaluation.measure",
    "open_model": "potstill.experiment.saved",
    "read_examples": "potstill.data",
    "run": "potstill.experiment.run",
    "train": "potstill.experiment.stages",
    "unlabelled_set": "potstill.experiment.run",
}

__all__ = [
    "Classifier",
    "Corpus",
    "Examples",
    "PotstillClassifier",
    "PotstillConfig",
    "Teacher",
    "distill",
    "finetune",
    "load_corpus",
    "measure",
    "open_model",
    "read_examples",
    "run",
    "train",
    "unlabelled_set",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("potstill")
    if name not in _HOMES:
        raise AttributeError(f"module 'potstill' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
