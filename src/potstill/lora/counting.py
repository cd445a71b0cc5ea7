"""Where a model's parameters are, which of them are trained, and what that costs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.lora.blocks import head_modules
from potstill.lora.inject import adapters, norm_layers
from potstill.lora.layer import LoRALinear
from potstill.lora.linear import LinearLike, linear_shape

PARTS = ("backbone", "normalisation", "adapters", "head")

_BLOCK_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class ModuleRow:
    """A module with parameters of its own, or the modules that are alike in several blocks.

    Attributes:
        name: Dotted name; block numbers that are alike are written as ranges, as in `layers.0–29.mlp`.
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


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count all parameters of a model, and those that require a gradient."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def parameter_groups(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Count parameters by part: (all, trained).

    The parts are the backbone's matrices, its normalisation layers, the adapters, and the head (see
    `head_modules`). Each parameter belongs to one part, tied ones are counted once.
    """
    modules = {"normalisation": norm_layers(model), "head": head_modules(model)}
    parts = {id(p): part for part, named in modules.items() for m in named.values() for p in m.parameters()}
    parts |= {id(p): "adapters" for _, adapter in adapters(model) for p in adapter.parameters(recurse=False)}
    counts = dict.fromkeys(PARTS, (0, 0))
    for parameter in model.parameters():
        part = parts.get(id(parameter), "backbone")
        total, trained = counts[part]
        counts[part] = (total + parameter.numel(), trained + parameter.numel() * parameter.requires_grad)
    return counts


def module_rows(model: PreTrainedModel) -> list[ModuleRow]:
    """List the modules that have parameters, from the input to the head; what is alike in several blocks is one row."""
    adapted = {id(adapter.base) for _, adapter in adapters(model)}  # they share a row with their adapters
    blocks: dict[ModuleRow, list[int]] = {}
    for name, module in model.named_modules():
        adapter = module if isinstance(module, LoRALinear) else None
        kept = module if adapter is None else adapter.base
        own = list(module.parameters(recurse=adapter is not None))
        if not own or id(module) in adapted:
            continue
        row = ModuleRow(
            name=_BLOCK_NUMBER.sub("{}", name, count=1),
            shape=linear_shape(kept) if isinstance(kept, LinearLike) else tuple(max(own, key=Tensor.numel).shape),
            rank=None if adapter is None else adapter.rank,
            parameters=sum(map(Tensor.numel, own)),
            trainable=sum(parameter.numel() for parameter in own if parameter.requires_grad),
        )
        number = _BLOCK_NUMBER.search(name)
        blocks.setdefault(row, []).append(int(number[0]) if number else 0)
    found = []
    for row, numbers in blocks.items():
        total, trained = row.parameters * len(numbers), row.trainable * len(numbers)
        found.append(replace(row, name=row.name.format(_ranges(numbers)), parameters=total, trainable=trained))
    return found


def flops_per_token(model: PreTrainedModel) -> tuple[int, int]:
    """Count the floating-point operations that the matrices cost per token: (forward, forward and backward).

    Kaplan et al. 2020, "Scaling Laws for Neural Language Models" (arXiv 2001.08361), section 2.1 and table 1: a matrix
    of n weights takes 2 n operations per token, one multiplication and one addition each. Backwards the gradient of its
    input takes 2 n more, and that of its weights another 2 n. What is frozen needs no gradient of its weights, and
    nothing below the first trained parameter needs any: LoRA on all blocks comes to little more than 4 n where full
    tuning takes 6 n.

    Left out, as there: embeddings, which are looked up; attention scores, which grow with the text; normalisation and
    activations. The head works once per text, not per token. A
    matrix that several blocks share (ALBERT) counts once. The modules are taken to be computed in their order: of the
    maps that read the first trained block's input, some are counted as if it needed a gradient.
    """
    head = {id(module) for part in head_modules(model).values() for module in part.modules()}
    forward = training = 0
    reached = False  # whether gradients have to come down to here
    for module in model.modules():
        if id(module) in head:
            continue
        reached = reached or any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        matrices: list[Tensor] = []
        if isinstance(module, LoRALinear):
            matrices = [module.lora_A, module.lora_B]
        elif isinstance(module, LinearLike):
            matrices = [module.weight]
        for matrix in matrices:
            forward += 2 * matrix.numel()
            training += 2 * matrix.numel() * (1 + reached + matrix.requires_grad)
    return forward, training


def _ranges(numbers: list[int]) -> str:
    """Write ascending numbers as ranges: 0–3,7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
