r"""A linear map with a low-rank update (LoRA).

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), section 4.1, equation 3:

    h = W0 x + ΔW x = W0 x + (alpha / r) B A x

W0 (out, in) is pretrained and frozen; A (r, in) and B (out, r) are trained. r is small, so r·(in + out) parameters
stand for an update of a matrix with in·out. A starts random and B at zero: at the start ΔW = 0 and the adapted model
is exactly the pretrained one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LinearLike = nn.Linear | Conv1D


def linear_shape(base: LinearLike) -> tuple[int, int]:
    """Return (in, out) of a linear map; GPT-2's `Conv1D` stores its weight transposed, as (in, out)."""
    if isinstance(base, nn.Linear):
        return base.in_features, base.out_features
    return base.weight.shape[0], base.weight.shape[1]


class LoRALinear(nn.Module):
    """A frozen `nn.Linear` or `Conv1D` plus its low-rank update.

    Attributes:
        base: The pretrained map with weight W0; frozen here.
        lora_A: A, (rank, in).
        lora_B: B, (out, rank).
        scaling: alpha / rank.
        merged: Whether W0 holds the update at present.
    """

    def __init__(self, base: LinearLike, rank: int, alpha: float, dropout: float = 0.0) -> None:
        """Wrap `base`.

        Raises:
            ValueError: `rank` is not positive.
        """
        super().__init__()
        if rank < 1:
            raise ValueError(f"the rank must be at least 1, found {rank}")
        in_features, out_features = linear_shape(base)
        self.base = base.requires_grad_(False)
        self.rank = rank
        self.alpha = alpha
        self.scaling = alpha / rank
        self.dropout = nn.Dropout(dropout)
        # Adapters stay float32 whatever the base is kept in: their updates are too small for bfloat16's 8 bits.
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, in_features, device=device, dtype=torch.float32))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, device=device, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as nn.Linear starts its own weight
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        """Map x, (..., in), to (..., out)."""
        y: Tensor = self.base(x)
        if self.merged:
            return y
        low = F.linear(self.dropout(x), self.lora_A)  # (..., rank)
        # The scale goes on the small product: `low` has rank columns, y has out.
        return y + F.linear(low * self.scaling, self.lora_B)

    def delta(self) -> Tensor:
        """Return ΔW = (alpha / r) B A in the layout of the base's weight."""
        update = (self.lora_B @ self.lora_A) * self.scaling  # (out, in)
        return update if isinstance(self.base, nn.Linear) else update.T

    @torch.no_grad()
    def merge(self) -> None:
        """Add ΔW to the base's weight, so that the forward pass costs what it cost before. Twice changes nothing."""
        if not self.merged:
            self.base.weight.copy_(self.base.weight.float() + self.delta())
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take ΔW out of the base's weight again; exact up to rounding."""
        if self.merged:
            self.base.weight.copy_(self.base.weight.float() - self.delta())
            self.merged = False

    def extra_repr(self) -> str:
        """Show the adapter's settings in the model's printout."""
        return f"rank={self.rank}, alpha={self.alpha}, merged={self.merged}"
