"""The linear maps of pretrained models, in either layout, and the fastest product with a frozen one.

For float32 on a CPU PyTorch multiplies with MKL. oneDNN, which PyTorch takes for bfloat16, writes its kernels for the
processor at hand and reads a transposed matrix as fast as it stands, so that the gradient's product g W needs no copy
of W. Where the processor has AVX-512 that is the faster one, elsewhere PyTorch's own: `benchmarks/limit.py` compares
the two at a model's own shapes.
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


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x Wᵀ by oneDNN, (tokens, out); x, (tokens, in), and W, (out, in), are float32 and on a CPU."""
    if torch.compiler.is_compiling():
        compiled: Tensor = _opaque_product(x, weight)
        return compiled
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


@torch.library.custom_op("potstill::product", mutates_args=(), device_types="cpu")
def _opaque_product(x: Tensor, weight: Tensor) -> Tensor:
    """Do the same as an operator that a compiler leaves as it is: inductor takes oneDNN's for constant weights only."""
    return product(x, weight)


@_opaque_product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def linear_shape(base: LinearLike) -> tuple[int, int]:
    """Return (in, out) of a linear map; GPT-2's `Conv1D` stores its weight transposed, as (in, out)."""
    if isinstance(base, nn.Linear):
        return base.in_features, base.out_features
    return base.weight.shape[0], base.weight.shape[1]


def linear_weight(base: LinearLike) -> Tensor:
    """Return the weight as (out, in), without gradient; a view where it is kept unpacked."""
    weight = base.weight.detach()
    return weight if isinstance(base, nn.Linear) else weight.T


def set_linear_weight(base: LinearLike, weight: Tensor) -> None:
    """Give a linear map another weight, (out, in), in the type and layout of its own."""
    layout = weight if isinstance(base, nn.Linear) else weight.T
    base.weight.data = layout.to(base.weight.dtype).contiguous()


def frozen_linear(base: LinearLike, x: Tensor) -> Tensor:
    """Apply a linear map whose weight is frozen; its bias may be trained.

    Args:
        base: The map.
        x: (tokens, in).

    Returns:
        (tokens, out).
    """
    if not _is_faster(base, x):
        mapped: Tensor = base(x)
        return mapped
    y: Tensor = _Product.apply(x, linear_weight(base))  # type: ignore[no-untyped-call]
    return y if base.bias is None else y.add_(base.bias)


def _is_faster(base: LinearLike, x: Tensor) -> bool:
    """Say whether oneDNN's float32 product stands for `base`'s own; a map that packs its weight has another one."""
    return (
        _ONEDNN_IS_FASTER
        and type(base) in (nn.Linear, Conv1D)
        and base.weight.numel() >= _SMALLEST
        and x.device.type == "cpu"
        and x.dtype == base.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


class _Product(torch.autograd.Function):
    """x Wᵀ, and g W for the gradient of x; W has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return product(gradients[0], weight.T), None
