"""Pretrained models: where their weights come from, and how they classify a text."""

from potstill.backbone.blocks import check_first_blocks
from potstill.backbone.classifier import TextClassifier, build_classifier
from potstill.backbone.head import head_modules
from potstill.backbone.prefix import FrozenPrefix
from potstill.backbone.sources import (
    check_architecture,
    check_language_model,
    check_vocabulary,
    is_causal,
    load_config,
    load_embeddings,
    load_language_model,
    load_tokenizer,
    outline,
    padding_id,
    save_plain,
)
from potstill.embedded import EMBEDDED

__all__ = [
    "EMBEDDED",
    "FrozenPrefix",
    "TextClassifier",
    "build_classifier",
    "check_architecture",
    "check_first_blocks",
    "check_language_model",
    "check_vocabulary",
    "head_modules",
    "is_causal",
    "load_config",
    "load_embeddings",
    "load_language_model",
    "load_tokenizer",
    "outline",
    "padding_id",
    "save_plain",
]
