"""Which parts of a classification model are its head."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


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
