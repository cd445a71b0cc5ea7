"""Putting adapters into a model and freezing the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from potstill.config import LoRAConfig
from potstill.errors import ConfigError
from potstill.lora.blocks import block_names, head_modules
from potstill.lora.layer import LoRALinear
from potstill.lora.linear import LinearLike


def inject(
    model: PreTrainedModel, config: LoRAConfig, *, frozen: Collection[str] = (), section: str = "teacher.lora"
) -> tuple[str, ...]:
    """Freeze `model` but for its head, and replace the targeted linear maps by `LoRALinear`.

    Trainable afterwards: every adapter, and all of `trained_modules` but those that are `frozen`. `section` is where
    the settings are, for messages. Returns the dotted names of the adapted modules.

    Raises:
        ConfigError: A pattern matches nothing. The model is as it was.
    """
    targets = find_targets(model, config, section)
    model.requires_grad_(False)
    for name, linear in targets.items():
        settings = (config.rank, config.alpha, config.dropout)
        model.set_submodule(name, LoRALinear(linear, *settings, use_rslora=config.use_rslora))
    for name, module in trained_modules(model, config).items():
        module.requires_grad_(name not in frozen)
    return tuple(targets)


def find_targets(model: PreTrainedModel, config: LoRAConfig, section: str) -> dict[str, LinearLike]:
    """Return the linear maps that `inject` would adapt, by dotted name; no weight is read. Arguments as for `inject`.

    `all-linear` means every linear map inside the repeated blocks (the members of a `ModuleList`), which leaves out
    embeddings, poolers and heads in every family without a list of names. A full name may also be that of a linear map
    of the pretrained base outside them.

    Raises:
        ConfigError: A pattern matches no linear map, or there is no pattern.
    """
    patterns = ("*",) if isinstance(config.target_modules, str) else config.target_modules
    inside, base = tuple(f"{block}." for block in block_names(model)), f"{model.base_model_prefix}."
    candidates = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LinearLike) and (name.startswith(inside) or (name in patterns and name.startswith(base)))
    }
    matches = {pattern: [name for name in candidates if fnmatchcase(name, pattern)] for pattern in patterns}
    if not patterns:
        raise ConfigError(
            [f"{section}.target_modules: expected all-linear or patterns, found none; method: head trains no adapter"]
        )
    if unmatched := [pattern for pattern, names in matches.items() if not names]:
        known = f"matches none of the model's linear maps, such as {list(candidates)[:4]}"
        raise ConfigError([f"{section}.target_modules: {pattern!r} {known}" for pattern in unmatched])
    chosen = {name for names in matches.values() for name in names}
    return {name: module for name, module in candidates.items() if name in chosen}


def trained_modules(model: PreTrainedModel, config: LoRAConfig) -> dict[str, nn.Module]:
    """Return what is trained in full beside the adapters, by dotted name: head parts without one and, if set, norms."""
    modules = head_modules(model) | (norm_layers(model) if config.train_layernorm else {})
    return {name: module for name, module in modules.items() if next(adapters(module), None) is None}


def norm_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the base's normalisation layers by dotted name; each family has classes of its own for them."""
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


def absorb_adapters(model: nn.Module) -> None:
    """Put every update into its base weight for good: plain linear maps remain, under their own names."""
    for name in [name for name, _ in adapters(model)]:  # names alone: a merged adapter keeps the weight as it was
        adapter = cast("LoRALinear", model.get_submodule(name))
        adapter.merge()
        model.set_submodule(name, adapter.base)


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Keep every update in its base weight for a while; adapters that were merged before stay merged."""
    unmerged = [adapter for _, adapter in adapters(model) if not adapter.merged]
    for adapter in unmerged:
        adapter.merge()
    try:
        yield
    finally:
        for adapter in unmerged:
            adapter.unmerge()
