"""Where a model's parameters are, which of them are trained, and what that costs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.backbone.head import head_modules
from potstill.lora.inject import adapters, norm_layers
from potstill.lora.layer import LoRALinear
from potstill.lora.linear import LinearLike, linear_shape
from potstill.lora.quantised import QuantisedLinear

PARTS = ("backbone", "normalisation", "adapters", "head")

_BLOCK_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class ModuleRow:
    """A module with parameters of its own, or the modules that are alike in several blocks.

    Attributes:
        name: Dotted name; block numbers that are alike are drawn together, as in `layers.0–29.mlp`.
        shape: Of a linear map (in, out), of any other module its largest parameter's.
        rank: Of its adapter; None: it has none.
        parameters: Of all these modules together, adapters included.
        trainable: How many of these are trained.
    """

    name: str
    shape: tuple[int, ...]
    rank: int | None
    parameters: int
    trainable: int


@dataclass(frozen=True)
class Cost:
    """What training takes beside activations.

    Attributes:
        weight_bytes: All parameters as they are kept.
        optimizer_bytes: Adam's or AdamW's two moments and the gradient, float32, of every trained parameter.
        forward_flops: Per token, see `flops_per_token`.
        training_flops: Per token, forward and backward.
    """

    weight_bytes: int
    optimizer_bytes: int
    forward_flops: int
    training_flops: int


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count all parameters of a model, packed or not, and those that require a gradient."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    packed = sum(module.numel for module in _packed(model))
    return packed + sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def parameter_groups(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Count parameters by part: (all, trained).

    The parts are the backbone's matrices, its normalisation layers, the adapters, and the head (see
    `head_modules`). Each parameter belongs to one part, tied ones are counted once.
    """
    head = {id(parameter) for module in head_modules(model).values() for parameter in module.parameters()}
    norms = {id(parameter) for norm in norm_layers(model).values() for parameter in norm.parameters()}
    low_rank = {id(parameter) for _, adapter in adapters(model) for parameter in adapter.parameters(recurse=False)}
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
    counts["backbone"][0] += sum(module.numel for module in _packed(model))
    return {part: (total, trained) for part, (total, trained) in counts.items()}


def module_rows(model: PreTrainedModel) -> list[ModuleRow]:
    """List the modules that have parameters, from the input to the head; what is alike in several blocks is one row."""
    rows: dict[tuple[object, ...], list[tuple[int | None, ModuleRow]]] = {}
    for name, module in _units(model):
        row = _row(name, module)
        number = _BLOCK_NUMBER.search(name)
        pattern = _BLOCK_NUMBER.sub("{}", name, count=1)
        alike = (pattern, row.shape, row.rank, row.parameters, row.trainable)
        rows.setdefault(alike, []).append((int(number[0]) if number else None, row))
    return [_drawn_together(str(pattern), members) for (pattern, *_), members in rows.items()]


def cost(model: PreTrainedModel) -> Cost:
    """Work out what training `model` takes."""
    forward, training = flops_per_token(model)
    packed = sum(module.nbytes for module in _packed(model))
    _, trained = count_parameters(model)
    return Cost(
        weight_bytes=packed + sum(parameter.nbytes for parameter in model.parameters()),
        optimizer_bytes=(4 + 4 + 4) * trained,
        forward_flops=forward,
        training_flops=training,
    )


def flops_per_token(model: PreTrainedModel) -> tuple[int, int]:
    """Count the floating-point operations that the matrices cost per token: (forward, forward and backward).

    Kaplan et al. 2020, "Scaling Laws for Neural Language Models" (arXiv 2001.08361), section 2.1 and table 1: a matrix
    of n weights takes 2 n operations per token, one multiplication and one addition each. Backwards the gradient of its
    input takes 2 n more, and that of its weights another 2 n. What is frozen needs no gradient of its weights, and
    nothing below the first trained parameter needs any: LoRA on all blocks comes to little more than 4 n where full
    tuning takes 6 n.

    Left out, as there: embeddings, which are looked up; attention scores, which grow with the text; normalisation,
    activations and, as they are no products with tokens, DoRA's norms. The head works once per text, not per token. A
    matrix that several blocks share (ALBERT) counts once.
    The order of the modules stands for the order of computation: of the maps that read the first trained block's input,
    some are counted as if it needed a gradient.
    """
    head = {id(module) for part in head_modules(model).values() for module in part.modules()}
    forward = training = 0
    reached = False  # whether gradients have to come down to here
    for module in model.modules():
        if id(module) in head:
            continue
        own = list(module.parameters(recurse=False))
        reached = reached or any(parameter.requires_grad for parameter in own)
        for size, trained in _matrices(module):
            forward += 2 * size
            training += 2 * size * (1 + reached + trained)
    return forward, training


def _matrices(module: nn.Module) -> Iterator[tuple[int, bool]]:
    """Yield size and whether it is trained of each matrix that `module` itself multiplies tokens with."""
    if isinstance(module, LoRALinear):
        for factor in (module.lora_A, module.lora_B):
            yield factor.numel(), factor.requires_grad
    elif isinstance(module, LinearLike):
        inputs, outputs = linear_shape(module)
        yield inputs * outputs, not isinstance(module, QuantisedLinear) and module.weight.requires_grad


def _packed(model: nn.Module) -> Iterator[QuantisedLinear]:
    return (module for module in model.modules() if isinstance(module, QuantisedLinear))


def _units(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module that has parameters of its own; an adapted map is one with its adapter."""
    adapted = {id(adapter.base) for _, adapter in adapters(model)}
    for name, module in model.named_modules():
        has_own = isinstance(module, QuantisedLinear) or any(True for _ in module.parameters(recurse=False))
        if has_own and id(module) not in adapted:
            yield name, module


def _row(name: str, module: nn.Module) -> ModuleRow:
    adapter = module if isinstance(module, LoRALinear) else None
    kept = module if adapter is None else adapter.base
    own = list(module.parameters(recurse=adapter is not None))
    largest = max((tuple(parameter.shape) for parameter in own), key=math.prod, default=())
    return ModuleRow(
        name=name,
        shape=linear_shape(kept) if isinstance(kept, LinearLike) else largest,
        rank=None if adapter is None else adapter.rank,
        parameters=sum(map(Tensor.numel, own)) + (kept.numel if isinstance(kept, QuantisedLinear) else 0),
        trainable=sum(parameter.numel() for parameter in own if parameter.requires_grad),
    )


def _drawn_together(pattern: str, members: list[tuple[int | None, ModuleRow]]) -> ModuleRow:
    """Make one row of rows that differ in their block's number alone."""
    rows = [row for _, row in members]
    return replace(
        rows[0],
        name=pattern.format(_ranges([number for number, _ in members if number is not None])),
        parameters=sum(row.parameters for row in rows),
        trainable=sum(row.trainable for row in rows),
    )


def _ranges(numbers: list[int]) -> str:
    """Write ascending numbers as ranges: 0–3,7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
