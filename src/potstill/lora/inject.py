"""Putting adapters into a model and freezing the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TypeVar, cast

from torch import nn
from transformers import PreTrainedModel

from potstill.backbone.blocks import block_names
from potstill.backbone.head import head_modules
from potstill.config import LoRAConfig
from potstill.errors import ConfigError
from potstill.lora.layer import LoRALinear
from potstill.lora.linear import LinearLike, linear_shape

T = TypeVar("T")


def inject(
    model: PreTrainedModel, config: LoRAConfig, *, frozen: Collection[str] = (), section: str = "teacher.lora"
) -> tuple[str, ...]:
    """Freeze `model` but for its head, and replace the targeted linear maps by `LoRALinear`.

    Trainable afterwards: every adapter, all of `trained_modules`, and the biases that `config.bias` names.

    Args:
        model: A sequence classification model.
        config: The adapters' settings.
        frozen: Parts of the head that stay as they are all the same.
        section: Where the settings stand, for messages.

    Returns:
        Dotted names of the adapted modules.

    Raises:
        ConfigError: A pattern matches nothing, or the model has no such ranks or blocks. The model is as it was.
    """
    targets = find_adapted(model, config, section)
    model.requires_grad_(False)
    for name, linear in targets.items():
        adapter = LoRALinear(
            linear,
            _first_match(config.rank_pattern, name, config.rank),
            _first_match(config.alpha_pattern, name, config.alpha),
            config.dropout,
            rank_stabilised=config.rank_stabilised,
            dora=config.dora,
            init=config.init,
        )
        model.set_submodule(name, adapter)
        if config.bias == "lora_only" and linear.bias is not None:
            linear.bias.requires_grad_(True)
    for name, module in trained_modules(model, config).items():
        module.requires_grad_(name not in frozen)
    if config.bias == "all":
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.requires_grad_(True)
    return tuple(targets)


def find_adapted(model: PreTrainedModel, config: LoRAConfig, section: str) -> dict[str, LinearLike]:
    """Return what `inject` would adapt, by dotted name. Arguments and errors as for `inject`; no weight is read."""
    targets = find_targets(model, config.targets, config.last_blocks, section)
    _check_patterns(targets, config, section)
    return targets


def find_targets(
    model: PreTrainedModel,
    targets: str | tuple[str, ...],
    last_blocks: int | None = None,
    section: str = "teacher.lora",
) -> dict[str, LinearLike]:
    """Return the linear maps to adapt, by dotted name.

    `all-linear` means every linear map inside the repeated blocks (the members of a `ModuleList`), which leaves out
    embeddings, poolers and heads in every family without a list of names. A full name may also stand for a linear map
    of the pretrained base outside them.

    Args:
        model: A sequence classification model.
        targets: `all-linear`, or patterns.
        last_blocks: Look into the last so many blocks only.
        section: Where the settings stand, for messages.

    Raises:
        ConfigError: A pattern matches no linear map, there is no pattern, or there are fewer blocks.
    """
    blocks = block_names(model)
    if last_blocks is not None:
        if last_blocks > len(blocks):
            raise ConfigError([f"{section}.last_blocks: the model has {len(blocks)} blocks; found {last_blocks}"])
        blocks = blocks[-last_blocks:]
    inside = tuple(f"{block}." for block in blocks)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, LinearLike)}
    candidates = {name: module for name, module in linear.items() if name.startswith(inside)}
    patterns = ("*",) if isinstance(targets, str) else targets
    if last_blocks is None:
        base = f"{model.base_model_prefix}."
        candidates |= {name: linear[name] for name in patterns if name in linear and name.startswith(base)}
    problems = [
        f"{section}.targets: {pattern!r} matches none of the model's linear maps, such as {list(candidates)[:4]}"
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in candidates)
    ]
    if not patterns:
        problems = [f"{section}.targets: expected all-linear or patterns, found none; method: head trains no adapter"]
    if problems:
        raise ConfigError(problems)
    return {
        name: module for name, module in candidates.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _check_patterns(targets: Mapping[str, LinearLike], config: LoRAConfig, section: str) -> None:
    problems = [
        f"{section}.{setting}: {pattern!r} matches none of the adapted modules, such as {list(targets)[:4]}"
        for setting in ("rank_pattern", "alpha_pattern")
        for pattern in getattr(config, setting)
        if not any(fnmatchcase(name, pattern) for name in targets)
    ]
    if config.init == "pissa":
        ranks = {name: _first_match(config.rank_pattern, name, config.rank) for name in targets}
        problems += [
            f"{section}.rank: {name} has {min(linear_shape(linear))} singular components; found {ranks[name]}"
            for name, linear in targets.items()
            if ranks[name] > min(linear_shape(linear))
        ]
    if problems:
        raise ConfigError(problems)


def _first_match(patterns: Mapping[str, T], name: str, default: T) -> T:
    """Return the value of the first pattern that matches `name`."""
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), default)


def trained_modules(model: PreTrainedModel, config: LoRAConfig) -> dict[str, nn.Module]:
    """Return what is trained in full beside the adapters, by dotted name: the head and, if asked for, the norms.

    A part of the head that was itself given an adapter is not.
    """
    modules = head_modules(model) | (norm_layers(model) if config.train_layernorm else {})
    return {name: module for name, module in modules.items() if next(adapters(module), None) is None}


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


def absorb_adapters(model: nn.Module) -> None:
    """Put every update into its base weight for good: plain linear maps are left, under their own names."""
    for name in [name for name, _ in adapters(model)]:  # names alone: a merged adapter keeps the weight as it was
        adapter = cast("LoRALinear", model.get_submodule(name))
        adapter.merge()
        model.set_submodule(name, adapter.base)


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Keep every update in its base weight for a while; what is there already stays there afterwards."""
    parted = [adapter for _, adapter in adapters(model) if not adapter.merged]
    for adapter in parted:
        adapter.merge()
    try:
        yield
    finally:
        for adapter in parted:
            adapter.unmerge()
