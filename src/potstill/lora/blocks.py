"""The blocks and the head of a pretrained model, found by structure and not by a list of families."""

from __future__ import annotations

from typing import Final

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from potstill.errors import ConfigError

_PER_BLOCK: Final = ("layer_types", "mlp_layer_types")
"""Settings with a value for each block, as most families name theirs."""


def block_names(model: PreTrainedModel) -> list[str]:
    """Return the dotted names of the blocks from first to last: the members of the outermost module lists."""
    blocks: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not name.startswith(tuple(f"{block}." for block in blocks)):
            blocks += [f"{name}.{child}" for child, _ in module.named_children()]
    return blocks


def keep_first_layers(model: PreTrainedModel, count: int) -> None:
    """Drop all blocks of a classification model but the first `count`; its configuration says so afterwards.

    Sajjad et al. 2023, "On the Effect of Dropping Layers of Pre-trained Transformer Models" (arXiv 2004.03844), find
    the top blocks to be those that a classifier misses least.

    Raises:
        ConfigError: It has fewer, not one row of them, or settings for each that are not known here.
    """
    config, blocks = model.config, block_names(model)
    check_num_layers(config, count)
    rows = {name.rpartition(".")[0] for name in blocks}
    if len(rows) != 1 or len(blocks) != getattr(config, "num_hidden_layers", None):
        raise ConfigError(
            [f"teacher.num_layers: {config.model_type!r} has not one row of blocks, each read once; leave it out"]
        )
    model.set_submodule(rows.pop(), nn.ModuleList(model.get_submodule(name) for name in blocks[:count]))
    for name in _PER_BLOCK:
        if (values := vars(config).get(name)) is not None:
            setattr(config, name, values[:count])
    config.num_hidden_layers = count
    try:
        type(config).from_dict(config.to_dict())
    except (ValueError, TypeError, StrictDataclassError):  # some compare further lists with the number of blocks
        problem = f"the settings of {config.model_type!r} can't be cut to {count} blocks; leave it out"
        raise ConfigError([f"teacher.num_layers: {problem}"]) from None


def check_num_layers(config: PretrainedConfig, count: int) -> None:
    """Refuse a `teacher.num_layers` above what a configuration says, before any weight is read.

    Raises:
        ConfigError: The model has fewer blocks.
    """
    found = getattr(config, "num_hidden_layers", None)
    if found is not None and count > found:
        raise ConfigError([f"teacher.num_layers: the backbone has {found} blocks; found {count}"])


def head_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the modules that turn hidden states into logits, by dotted name.

    They are outside the pretrained base, but for the `pooler` that BERT and ALBERT keep inside it: it reads the first
    token's state only, and checkpoints from masked language modelling come without it, so that it starts random.
    """
    head = {
        name: child
        for name, child in model.named_children()
        if child is not model.base_model and any(True for _ in child.parameters())
    }
    pooler = getattr(model.base_model, "pooler", None)
    if isinstance(pooler, nn.Module):
        head[f"{model.base_model_prefix}.pooler"] = pooler
    return head
