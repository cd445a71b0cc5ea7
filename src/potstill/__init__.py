"""Potstill: labelled text in, a classifier small and fast enough to run anywhere out.

Names are imported when they are first used: `Classifier` needs no torch, the rest comes with `potstill[train]`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.config import PotstillConfig
    from potstill.data import Corpus, Examples, load_corpus, read_examples
    from potstill.models import measure, open_model
    from potstill.pipeline import distill, finetune, run, train, transfer_set
    from potstill.runtime import Classifier
    from potstill.teacher import Teacher

_HOMES = {
    "Classifier": "potstill.runtime",
    "Corpus": "potstill.data",
    "Examples": "potstill.data",
    "PotstillConfig": "potstill.config",
    "Teacher": "potstill.teacher",
    "distill": "potstill.pipeline",
    "finetune": "potstill.pipeline",
    "load_corpus": "potstill.data",
    "measure": "potstill.models",
    "open_model": "potstill.models",
    "read_examples": "potstill.data",
    "run": "potstill.pipeline",
    "train": "potstill.pipeline",
    "transfer_set": "potstill.pipeline",
}

__all__ = [
    "Classifier",
    "Corpus",
    "Examples",
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
    "transfer_set",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'potstill' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
