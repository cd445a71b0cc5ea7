"""A linear map with a low-rank update (LoRA).

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), section 4.1, equation 3:

    h = W0 x + ΔW x = W0 x + s B A x,    s = alpha / r

W0 (out, in) is pretrained and frozen; A (r, in) and B (out, r) are trained. r is small, so r·(in + out) parameters
stand for an update of a matrix with in·out. A starts random and B at zero: at the start ΔW = 0 and the adapted model
is exactly the pretrained one.

rsLoRA, Kalajdzievski 2023 (arXiv 2312.03732), theorem 3.2, has s = alpha / √r: with alpha / r the update of a large
rank learns as slowly as that of a small one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from potstill.lora.dropout import Dropout
from potstill.lora.linear import LinearLike, frozen_linear, linear_shape, linear_weight, set_linear_weight


class LoRALinear(nn.Module):
    """A frozen `nn.Linear` or `Conv1D` plus its low-rank update.

    Attributes:
        base: The pretrained map with weight W0; frozen here.
        lora_A: A, (rank, in).
        lora_B: B, (out, rank).
        scaling: s.
    """

    _unmerged: Tensor | None

    def __init__(
        self,
        base: LinearLike,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        *,
        use_rslora: bool = False,
    ) -> None:
        """Wrap `base`; a ValueError refuses a rank below 1."""
        super().__init__()
        if rank < 1:
            raise ValueError(f"the rank must be at least 1, found {rank}")
        in_features, out_features = linear_shape(base)
        self.base = base.requires_grad_(False)
        self.rank = rank
        self.scaling = alpha / (math.sqrt(rank) if use_rslora else rank)
        self.dropout = Dropout(dropout)
        # Adapters stay float32 whatever the base is kept in: their updates are too small for bfloat16's 8 bits.
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, in_features, device=device, dtype=torch.float32))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, device=device, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as nn.Linear starts its own weight
        self.register_buffer("_unmerged", None, persistent=False)  # the base has it already

    @property
    def merged(self) -> bool:
        """Whether the base's weight holds the update at present."""
        return self._unmerged is not None

    def forward(self, x: Tensor) -> Tensor:
        """Map x, (..., in), to (..., out)."""
        # Two dimensions before the base: its result would else be a view, and for an in-place operation on a view
        # autograd copies the whole gradient.
        rows = x.reshape(-1, x.shape[-1])  # (tokens, in)
        y = frozen_linear(self.base, rows)
        if not self.merged:
            y = self._add_update(y, self.dropout(rows))
        return y.view(*x.shape[:-1], y.shape[-1])

    def _add_update(self, y: Tensor, x: Tensor) -> Tensor:
        """Add s B A x to y in place; y is (tokens, out), x is (tokens, in)."""
        # With r far below the other dimensions, memory decides the time and not arithmetic. A xᵀ rather than x Aᵀ
        # keeps rows long: (rank, tokens). addmm_ scales and adds in one pass over y; a copy of the small Bᵀ in its
        # row order makes that product fast. Autograd's backward products inherit these layouts.
        low = self.lora_A @ x.T  # (rank, tokens)
        up = self.lora_B.T.to(y.dtype).contiguous()  # (rank, out)
        # Autocast leaves in-place operations alone: the types must agree already.
        return y.addmm_(low.T.to(y.dtype), up, alpha=self.scaling)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the update into the base's weight, so that the forward pass costs what it cost before.

        The weight without it is kept for `unmerge`. Twice changes nothing.
        """
        if not self.merged:
            weight = linear_weight(self.base).float()  # (out, in)
            weight = torch.addmm(weight, self.lora_B, self.lora_A, alpha=self.scaling)  # one pass over it
            self._unmerged = self.base.weight.data
            set_linear_weight(self.base, weight)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Restore the base's weight, bit for bit."""
        if self._unmerged is not None:
            self.base.weight.data = self._unmerged
            self._unmerged = None
