"""Putting adapters into a model and freezing the rest."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from potstill.backbone.head import head_modules
from potstill.config import LoRAConfig
from potstill.errors import ConfigError
from potstill.lora.layer import LinearLike, LoRALinear


def inject(model: PreTrainedModel, config: LoRAConfig) -> tuple[str, ...]:
    """Freeze `model` but for its head, and replace the targeted linear maps by `LoRALinear`.

    Trainable afterwards: every adapter and all of `trained_modules`.

    Args:
        model: A sequence classification model.
        config: Rank, alpha, dropout, targets.

    Returns:
        Dotted names of the adapted modules.

    Raises:
        ConfigError: A pattern matches no linear map.
    """
    targets = find_targets(model, config.targets)
    model.requires_grad_(False)
    for module in trained_modules(model, config).values():
        module.requires_grad_(True)
    for name, linear in targets.items():
        model.set_submodule(name, LoRALinear(linear, config.rank, config.alpha, config.dropout))
    return tuple(targets)


def find_targets(model: PreTrainedModel, targets: str | tuple[str, ...]) -> dict[str, LinearLike]:
    """Return the linear maps to adapt, by dotted name.

    `all-linear` means every linear map inside the repeated blocks (the members of a `ModuleList`), which leaves out
    embeddings, poolers and heads in every family without a list of names.

    Raises:
        ConfigError: A pattern matches no linear map, or there is none at all.
    """
    blocks = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LinearLike) and name.startswith(blocks)
    }
    patterns = ("*",) if isinstance(targets, str) else targets
    problems = [
        f"teacher.lora.targets: {pattern!r} matches none of the model's linear maps, such as {list(linear)[:4]}"
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in linear)
    ]
    if problems:
        raise ConfigError(problems)
    return {name: module for name, module in linear.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def trained_modules(model: PreTrainedModel, config: LoRAConfig) -> dict[str, nn.Module]:
    """Return what is trained in full beside the adapters, by dotted name: the head and, if asked for, the norms."""
    return head_modules(model) | (norm_layers(model) if config.train_layernorm else {})


def norm_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the base's normalisation layers by dotted name, whichever class of its own the family has for them."""
    return {
        f"{model.base_model_prefix}.{name}": module
        for name, module in model.base_model.named_modules()
        if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))
    }


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Yield name and module of every adapter."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def merge_adapters(model: nn.Module) -> None:
    """Add every update to its base weight."""
    for _, adapter in adapters(model):
        adapter.merge()


def unmerge_adapters(model: nn.Module) -> None:
    """Take every update out of its base weight."""
    for _, adapter in adapters(model):
        adapter.unmerge()
