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
from torch.nn.functional import dropout as drop_out
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

EAGER: Final = "eager"
SHORT: Final = "potstill_short"
"""What `transformers` knows it by."""


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
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

    Returns:
        (batch, length, heads, size), and the weights, (batch, heads, length, keys).
    """
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
def attend_to_short_texts(model: PreTrainedModel) -> None:
    """Let `model`, which is on a CPU, attend by `short_attention`, or plainly where its family does it another way.

    Some have more in their attention than its arguments tell (sinks, caps of the scores); a trial on a few tokens says
    whether all that this model does is done.
    """
    model.set_attn_implementation(EAGER)
    ids = torch.arange(8).view(2, 4)  # no padding, whose embedding may be zero
    was_training = model.training
    model.train(False)
    expected = model(input_ids=ids).logits
    model.set_attn_implementation(SHORT)
    try:
        same = torch.allclose(model(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-4)
    except (TypeError, RuntimeError):  # called with what it does not know
        same = False
    if not same:
        model.set_attn_implementation(EAGER)
    model.train(was_training)


AttentionInterface.register(SHORT, short_attention)
AttentionMaskInterface.register(SHORT, ALL_MASK_ATTENTION_FUNCTIONS[EAGER])
