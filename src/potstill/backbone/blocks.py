"""The repeated blocks of a pretrained model, found by structure and not by a list of families."""

from __future__ import annotations

from typing import Final

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from potstill.backbone.head import head_modules
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


def keep_first_blocks(model: PreTrainedModel, count: int) -> None:
    """Drop all blocks but the first `count`: what these compute goes to the last normalisation and the head.

    Sajjad et al. 2023, "On the Effect of Dropping Layers of Pre-trained Transformer Models" (arXiv 2004.03844), find
    the top blocks to be those that a classifier misses least.

    Args:
        model: A classification model.
        count: How many; its configuration says so afterwards.

    Raises:
        ConfigError: It has fewer, not one row of them, or settings for each that are not known here.
    """
    config, blocks = model.config, block_names(model)
    check_first_blocks(config, count)
    rows = {name.rpartition(".")[0] for name in blocks}
    if len(rows) != 1 or len(blocks) != getattr(config, "num_hidden_layers", None):
        raise ConfigError(
            [f"teacher.first_blocks: {config.model_type!r} has not one row of blocks, each read once; leave it out"]
        )
    (row,) = rows
    model.set_submodule(row, nn.ModuleList(model.get_submodule(name) for name in blocks[:count]))
    for name in _PER_BLOCK:
        if (values := vars(config).get(name)) is not None:
            setattr(config, name, values[:count])
    config.num_hidden_layers = count
    try:
        type(config).from_dict(config.to_dict())
    except (ValueError, TypeError, StrictDataclassError):  # some compare further lists with the number of blocks
        problem = f"the settings of {config.model_type!r} can't be cut to {count} blocks; leave it out"
        raise ConfigError([f"teacher.first_blocks: {problem}"]) from None


def check_first_blocks(config: PretrainedConfig, count: int) -> None:
    """Compare with a configuration what can be, before any weight is read.

    Raises:
        ConfigError: There are fewer blocks than are to be kept.
    """
    found = getattr(config, "num_hidden_layers", None)
    if found is not None and count > found:
        raise ConfigError([f"teacher.first_blocks: the backbone has {found} blocks; found {count}"])


def frozen_depth(model: PreTrainedModel) -> int:
    """Count the leading blocks whose output never changes, because nothing in them or before them is trained.

    Args:
        model: A classification model, frozen as it will be trained.
    """
    blocks = block_names(model)
    after = tuple(f"{name}." for name in (*head_modules(model), *blocks))  # the head comes after all blocks
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if any(not name.startswith(after) for name in trained):
        return 0  # embeddings, say
    frozen = (not any(name.startswith(f"{block}.") for name in trained) for block in blocks)
    return next((depth for depth, is_frozen in enumerate(frozen) if not is_frozen), len(blocks))
