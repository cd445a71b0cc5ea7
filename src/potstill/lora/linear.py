"""The linear maps of pretrained models, in either layout, and the fastest product with a frozen one.

For float32 on a CPU PyTorch multiplies with MKL. oneDNN, which PyTorch takes for bfloat16, writes its kernels for the
processor at hand and reads a transposed matrix as fast as any, so that the gradient's product g W needs no copy of W.
It is faster on processors with AVX-512: without it, tuning smollm2-135m in float32 with one thread takes 1.46 times as
long (1.30 to 1.60; CPU time, 5 pairs in turn, AMD EPYC with AVX-512).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

LinearLike = nn.Linear | Conv1D

_ONEDNN_IS_FASTER: Final[bool] = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and "AVX512" in torch.backends.cpu.get_cpu_capability()
)
_SMALLEST: Final = 1 << 14
"""Weights below which a call of our own costs more than a faster product saves."""


def linear_shape(base: LinearLike) -> tuple[int, int]:
    """Return (in, out) of a linear map; GPT-2's `Conv1D` stores its weight transposed, as (in, out)."""
    if isinstance(base, nn.Linear):
        return base.in_features, base.out_features
    return base.weight.shape[0], base.weight.shape[1]


def linear_weight(base: LinearLike) -> Tensor:
    """Return the weight as (out, in), without gradient; a view."""
    weight = base.weight.detach()
    return weight if isinstance(base, nn.Linear) else weight.T


def set_linear_weight(base: LinearLike, weight: Tensor) -> None:
    """Give a linear map another weight, (out, in), in the type and layout of its own."""
    layout = weight if isinstance(base, nn.Linear) else weight.T
    base.weight.data = layout.to(base.weight.dtype).contiguous()


def frozen_linear(base: LinearLike, x: Tensor) -> Tensor:
    """Apply a linear map whose weight is frozen, to x, (tokens, in); returns (tokens, out). Its bias may be trained."""
    is_faster = (
        _ONEDNN_IS_FASTER
        and type(base) in (nn.Linear, Conv1D)  # a subclass may compute something else
        and base.weight.numel() >= _SMALLEST
        and x.device.type == "cpu"
        and x.dtype == base.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )
    if not is_faster:
        mapped: Tensor = base(x)
        return mapped
    y: Tensor = _Product.apply(x, linear_weight(base))  # type: ignore[no-untyped-call]
    return y if base.bias is None else y.add_(base.bias)


class _Product(torch.autograd.Function):
    """x Wᵀ by oneDNN, and g W for the gradient of x; W has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return _product(gradients[0], weight.T), None


def _product(x: Tensor, weight: Tensor) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y
