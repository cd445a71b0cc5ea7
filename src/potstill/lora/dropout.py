"""Dropout that is drawn faster on a CPU (docs/benchmarks.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_BITS = 16
"""Random bits for each component: p is then kept to 1 / 65,536."""
_LOWEST = torch.iinfo(torch.int64).min


class Dropout(nn.Dropout):
    """`nn.Dropout` by the function `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop components of a tensor of any shape in training, else return it."""
        return dropout(input, self.p, self.training)


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Set each component to 0 with probability `p` and scale the others by 1 / (1 - p), in training alone.

    As `torch.nn.functional.dropout` (Hinton et al. 2012, arXiv 1207.0580), which draws a number for each component on
    one core. Here a draw of 64 bits decides about four components.
    On a GPU PyTorch's own is faster. `x` has any shape; `p` is from 0 to 1.
    """
    below = round(p * 2**_BITS)
    if not training or not 0 < below < 2**_BITS or x.device.type != "cpu":
        return functional.dropout(x, p, training)
    draws = torch.empty(-(-x.numel() * _BITS // 64), dtype=torch.int64).random_(_LOWEST, None)
    numbers = draws.view(torch.int16)[: x.numel()].view(x.shape)  # evenly from -2^15 to 2^15 - 1
    # In place, since PyTorch compares into integers with all lanes of a processor, into booleans one by one.
    kept = numbers.ge_(below - 2 ** (_BITS - 1)).to(x.dtype)
    return x * kept.mul_(1.0 / (1.0 - p))
