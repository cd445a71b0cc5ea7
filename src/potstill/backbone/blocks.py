"""The repeated blocks of a pretrained model, found by structure and not by a list of families."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from potstill.backbone.head import head_modules


def block_names(model: PreTrainedModel) -> list[str]:
    """Return the dotted names of the blocks from first to last: the members of the outermost module lists."""
    blocks: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not name.startswith(tuple(f"{block}." for block in blocks)):
            blocks += [f"{name}.{child}" for child, _ in module.named_children()]
    return blocks


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
