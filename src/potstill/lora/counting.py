"""Where a model's parameters are, and which of them are trained."""

from __future__ import annotations

from transformers import PreTrainedModel

from potstill.backbone.head import head_modules
from potstill.lora.inject import adapters, norm_layers

PARTS = ("backbone", "normalisation", "adapters", "head")


def parameter_groups(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Count parameters by part: (all, trained).

    The parts are the backbone's matrices, its normalisation layers, the adapters, and the head (see
    `head_modules`). Each parameter belongs to one part, tied ones are counted once.
    """
    head = {id(parameter) for module in head_modules(model).values() for parameter in module.parameters()}
    norms = {id(parameter) for norm in norm_layers(model).values() for parameter in norm.parameters()}
    low_rank = {id(parameter) for _, adapter in adapters(model) for parameter in (adapter.lora_A, adapter.lora_B)}
    counts = {part: [0, 0] for part in PARTS}
    for parameter in model.parameters():
        if id(parameter) in low_rank:
            part = "adapters"
        elif id(parameter) in head:
            part = "head"
        else:
            part = "normalisation" if id(parameter) in norms else "backbone"
        counts[part][0] += parameter.numel()
        counts[part][1] += parameter.numel() * parameter.requires_grad
    return {part: (total, trained) for part, (total, trained) in counts.items()}
