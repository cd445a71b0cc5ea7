"""Attention for many short texts on a CPU.

softmax(s Q Kᵀ + M) V (Vaswani et al. 2017, arXiv 1706.03762, equation 1) over texts of a few dozen tokens is no
arithmetic to speak of: time goes into the number of passes and of small products. PyTorch's fused kernel is made for
long sequences; the plain one of `transformers` copies keys and values for all heads of a group (Ainslie et al. 2023,
"GQA", arXiv 2305.13245), and scales and masks in passes of their own. Here the heads of a group are rows of one
product with the keys that they share, and scaling and masking are part of it.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from potstill.backbone.classifier import TextClassifier, evaluating
from potstill.dropout import dropout as drop_out

EAGER: Final = "eager"
SHORT: Final = "potstill_short"
"""What `transformers` knows it by."""
_BEYOND: Final = ("softcap", "s_aux", "head_mask", "position_bias")
"""Arguments that change the scores or the weights: caps, sinks, masked heads, biases."""


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, Tensor]:
    """Attend; the signature is that of `transformers.AttentionInterface`.

    Args:
        module: The attention layer.
        query: (batch, heads, length, size).
        key: (batch, groups, keys, size); heads that share keys are neighbours.
        value: As `key`.
        attention_mask: What is added to the scores, (batch or 1, heads or 1, length, keys).
        scaling: s; None: 1 / √size.
        dropout: Share of the weights that is dropped in training.
        more: What families add; most of it only repeats what the mask says.

    Returns:
        (batch, length, heads, size), and the weights, (batch, heads, length, keys).

    Raises:
        TypeError: A family asks for more than attention.
    """
    if unknown := [name for name in _BEYOND if more.get(name) is not None]:
        raise TypeError(f"expected plain attention, found {', '.join(unknown)}")
    batch, heads, length, size = query.shape
    groups, keys = key.shape[1:3]
    shared = (batch * groups, heads // groups * length)
    q = query.reshape(*shared, size)
    k, v = key.reshape(-1, keys, size), value.reshape(-1, keys, size)
    scaling = size**-0.5 if scaling is None else scaling
    if attention_mask is None:
        scores = torch.bmm(q * scaling, k.transpose(1, 2))
    else:
        mask = attention_mask.to(q.dtype).expand(batch, heads, length, keys).reshape(*shared, keys)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scaling)  # (batch · groups, heads · length, keys)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    weights = drop_out(weights, dropout, training=module.training)
    attended = torch.bmm(weights, v).view(batch, heads, length, size).transpose(1, 2)
    return attended.contiguous(), weights.view(batch, heads, length, keys)


@torch.no_grad()
def attend_to_short_texts(classifier: TextClassifier) -> None:
    """Let a model that is on a CPU attend by `short_attention`, or plainly where its family does it another way.

    A trial on a few tokens says whether all that it does is done.
    """
    model = classifier.model
    with evaluating(classifier):
        model.set_attn_implementation(EAGER)
        ids = torch.arange(8).view(2, 4)  # no padding, whose embedding may be zero
        expected = classifier(ids, torch.ones_like(ids))
        try:
            model.set_attn_implementation(SHORT)
            same = torch.allclose(classifier(ids, torch.ones_like(ids)), expected, rtol=1e-3, atol=1e-4)
        except Exception:  # whatever a family does with what it does not know, there is the plain way
            same = False
        if not same:
            model.set_attn_implementation(EAGER)


AttentionInterface.register(SHORT, short_attention)
AttentionMaskInterface.register(SHORT, ALL_MASK_ATTENTION_FUNCTIONS[EAGER])
