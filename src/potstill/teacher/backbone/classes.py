"""Whose classes a pretrained head knows, and in which order."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from potstill.console import print_line
from potstill.data.columns import listed
from potstill.lora.blocks import head_modules
from potstill.teacher.backbone.sources import outline

_UNLIKELY: Final = 7919
"""A number of classes that is no width of a layer."""


def class_parameters(config: PretrainedConfig) -> tuple[str, ...]:
    """Name the parameters of a classification model that have a row for each class."""
    other = copy.deepcopy(config)
    other.num_labels = _UNLIKELY
    return tuple(
        f"{module}.{name}"
        for module, head in head_modules(outline(other)).items()
        for name, parameter in head.named_parameters()
        if parameter.shape[0] == _UNLIKELY
    )


def class_names(config: PretrainedConfig) -> tuple[str, ...]:
    """Return the names of a checkpoint's classes, in the order of its logits."""
    return tuple(str(name) for _, name in sorted((config.id2label or {}).items()))


def reorder_classes(model: PreTrainedModel, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Put the rows of a head for the classes `found` into the order `wanted` of the same classes."""
    order = [found.index(name) for name in wanted]
    for name in class_parameters(model.config):
        rows = model.get_parameter(name)
        rows.data = rows.data[order]


def adopt_head(
    model: PreTrainedModel, found: Sequence[str], wanted: Sequence[str], missing: frozenset[str], backbone: str
) -> None:
    """Keep a fine-tuned checkpoint's head if it is for the `wanted` classes, else draw its last layer anew, and say so.

    `found` are the classes of the checkpoint of that `backbone`, see `class_names`; `missing` are the names of the
    parameters that it lacks.
    """
    rows = class_parameters(model.config)
    if not missing.isdisjoint(rows):
        return
    if sorted(found) == sorted(wanted):
        reorder_classes(model, found, wanted)
        return
    print_line(f"{backbone} classifies into {listed(found)}, not {listed(wanted)}: the last layer of its head is new")
    for parameter in map(model.get_parameter, rows):  # weights as in BERT and GPT, biases 0
        nn.init.normal_(parameter, std=getattr(model.config, "initializer_range", 0.02) * (parameter.dim() > 1))
