"""Frozen linear maps in 4 or 8 bits, under adapters in float32.

Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs" (arXiv 2305.14314), section 3, equation 5:

    h = dequantise(W0) x + s B A x

The packed weight is unpacked where it is multiplied, forwards and backwards, and never kept unpacked. Four bits are
NormalFloat (section 3: its 16 levels are quantiles of the normal distribution, which trained weights follow), eight
bits are evenly spaced levels; each block of 64 weights has a scale of its own. QLoRA's second quantisation, of the
scales, is left out: it saves 0.4 bits of 4.5.

The kernels are those of bitsandbytes, which run on CPUs too. Its layers are not used: the 8-bit one rounds the
activations as well (on a CPU in evaluation alone, so that it judges by another function than it trains), and both
convert their bias to the input's type, which would take a trained bias out of float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import MissingExtraError
from potstill.lora.inject import find_targets
from potstill.lora.linear import linear_weight, set_linear_weight

_BLOCK = 64
"""Weights that share a scale; QLoRA's choice (section 4)."""


class QuantisedLinear(nn.Linear):
    """A frozen linear map that keeps its weight packed.

    Attributes:
        in_features: Width of the input.
        out_features: Width of the output.
        bits: 4 or 8.
        packed: The levels' numbers, uint8; two to a byte with 4 bits.
        bias: The original bias, (out), trained or not; or None.
    """

    packed: Tensor

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, bits: int) -> None:
        """Pack `weight`, (out, in).

        Raises:
            MissingExtraError: bitsandbytes is not installed.
        """
        nn.Module.__init__(self)  # not nn.Linear's, which would make room for a float weight
        self.out_features, self.in_features = weight.shape
        self.bits = bits
        # Flat: with AVX512, bitsandbytes 0.50 unpacks a matrix wrongly where a block runs on into the next row.
        values = weight.detach().float().flatten()
        if bits == 4:
            packed, self._scales = kernels().quantize_4bit(values, blocksize=_BLOCK, quant_type="nf4")
        else:
            levels = kernels().create_linear_map(signed=True, total_bits=8)
            packed, self._scales = kernels().quantize_blockwise(values, code=levels, blocksize=_BLOCK)
        self.register_buffer("packed", packed, persistent=False)
        self.bias = bias  # type: ignore[assignment]  # as in nn.Linear, it may be None

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.in_features * self.out_features

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight and its scales."""
        return int(self.packed.nbytes + self._scales.absmax.nbytes)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight that is computed with, (out, in), float32; unpacked for whoever asks, so no parameter."""
        unpack = kernels().dequantize_4bit if self.bits == 4 else kernels().dequantize_blockwise
        values: Tensor = unpack(self.packed, self._scales)
        return values.view(self.out_features, self.in_features)

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        y: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y.add_(self.bias.to(y.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the scales along with the rest."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._scales.to(self.packed.device)
        return self

    def extra_repr(self) -> str:
        """Show the bits in the model's printout."""
        return f"{super().extra_repr()}, bits={self.bits}"


class _Product(torch.autograd.Function):
    """x Wᵀ, which remembers W packed: autograd's own would keep the unpacked matrix until the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: QuantisedLinear) -> Tensor:
        ctx.linear = linear
        return F.linear(x, linear.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.linear.weight.to(gradient.dtype), None


def pack_weights(model: PreTrainedModel, bits: int) -> None:
    """Replace the linear maps inside the blocks by `QuantisedLinear`; before adapters are put on them.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    for name, linear in find_targets(model, "all-linear").items():
        model.set_submodule(name, QuantisedLinear(linear_weight(linear), linear.bias, bits))
    # Weights that were loaded are views of the mapped file, whose pages all stay as long as one of them does.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def round_weights(model: PreTrainedModel, bits: int) -> None:
    """Give the same linear maps, unpacked, the values that `pack_weights` would keep: for adapters to be merged into.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    for linear in find_targets(model, "all-linear").values():
        set_linear_weight(linear, QuantisedLinear(linear_weight(linear), None, bits).weight)


def kernels() -> Any:
    """Import the functions that pack and unpack.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes import functional
    except ImportError:
        raise MissingExtraError("bitsandbytes", "quantise") from None
    return functional
