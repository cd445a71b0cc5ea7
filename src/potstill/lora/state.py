"""Saving and loading what was trained: adapters, head and, where trained, normalisation layers.

The directory has PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`) and PEFT's names, so that `peft`
reads what Potstill writes: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from potstill.artifacts import read_json, write_atomically, write_json
from potstill.config import LoRAConfig
from potstill.errors import ArtifactError, ConfigError
from potstill.lora.inject import adapters, inject, norm_layers, trained_modules

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
ADAPTER_FILES: Final = (CONFIG_FILE, WEIGHTS_FILE)

_PREFIX = "base_model.model."
"""PEFT wraps the model twice, and its names say so."""

_UNSUPPORTED = ("use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "layers_to_transform")
"""PEFT's settings that, where they are set, change what the same tensors compute."""


def save_adapter(model: PreTrainedModel, config: LoRAConfig, directory: Path, base: str) -> None:
    """Write everything of `model` that requires a gradient.

    Args:
        model: A model after `inject`.
        config: What it was injected with.
        directory: Where to; made if need be.
        base: Name of the pretrained model, for the reader's orientation.
    """
    tensors = {_to_peft(name): p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    write_atomically(directory / WEIGHTS_FILE, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_json(directory / CONFIG_FILE, _peft_config(model, config, base))


def load_adapter(model: PreTrainedModel, directory: Path) -> LoRAConfig:
    """Put the adapters of `directory` into `model`, with head and normalisation layers.

    Args:
        model: The pretrained model as it was before `inject`.
        directory: What `save_adapter` wrote.

    Returns:
        The adapters' settings.

    Raises:
        ArtifactError: A file is missing or damaged, or names and shapes are not exactly those that `model` needs: a
            missing head would otherwise stay random without a word.
    """
    config = _lora_config(model, directory / CONFIG_FILE)
    path = directory / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{path}: expected safetensors, found {error}\n  what to do: train or copy it again"
        ) from None
    try:
        inject(model, config)
    except ConfigError as error:
        raise ArtifactError(
            f"{directory / CONFIG_FILE} does not fit this backbone: {'; '.join(error.problems)}\n"
            f"  what to do: use the backbone that the adapter was trained on"
        ) from None
    expected = {_to_peft(name): p for name, p in model.named_parameters() if p.requires_grad}
    _audit(expected, tensors, path)
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[name])
    return config


def _audit(expected: dict[str, torch.nn.Parameter], found: dict[str, Tensor], path: Path) -> None:
    problems = []
    if missing := sorted(expected.keys() - found.keys()):
        problems.append(f"{len(missing)} tensors are missing: {_some(missing)}")
    if unexpected := sorted(found.keys() - expected.keys()):
        problems.append(f"{len(unexpected)} tensors are not of this model: {_some(unexpected)}")
    wrong = [
        f"{name} (expected {tuple(expected[name].shape)}, found {tuple(found[name].shape)})"
        for name in sorted(expected.keys() & found.keys())
        if expected[name].shape != found[name].shape
    ]
    if wrong:
        problems.append(f"{len(wrong)} tensors have the wrong shape: {_some(wrong)}")
    if problems:
        raise ArtifactError(
            f"{path} does not fit this backbone: {'; '.join(problems)}\n"
            f"  what to do: use the backbone that the adapter was trained on, and a complete copy of its directory"
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _to_peft(name: str) -> str:
    """Translate a parameter's name: PEFT keeps A and B in linear layers, hence their `.weight`."""
    return _PREFIX + name + (".weight" if name.endswith((".lora_A", ".lora_B")) else "")


def _peft_config(model: PreTrainedModel, config: LoRAConfig, base: str) -> dict[str, Any]:
    adapted = dict(adapters(model))
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "bias": "none",
        "fan_in_fan_out": any(not isinstance(adapter.base, torch.nn.Linear) for adapter in adapted.values()),
        "target_modules": list(adapted),
        "modules_to_save": list(trained_modules(model, config)),
        "inference_mode": True,
    }


def _lora_config(model: PreTrainedModel, path: Path) -> LoRAConfig:
    """Read the settings from the configuration file, PEFT's own ones included as far as they mean the same."""
    values = read_json(path)
    found = {name: values[name] for name in _UNSUPPORTED if values.get(name)}
    found |= {
        name: values.get(name) for name, kind in (("peft_type", "LORA"), ("bias", "none")) if values.get(name) != kind
    }
    if found:
        raise ArtifactError(
            f"{path}: expected plain LoRA without biases, found {found}\n"
            f"  what to do: name a directory that `potstill finetune` wrote"
        )
    modules = dict(model.named_modules())
    try:
        return LoRAConfig(
            rank=values["r"],
            alpha=values["lora_alpha"],
            dropout=values.get("lora_dropout", 0.0),
            # PEFT's names may be the ends of dotted names, too.
            targets=tuple(name if name in modules else f"*.{name}" for name in values["target_modules"]),
            train_layernorm=not norm_layers(model).keys().isdisjoint(values.get("modules_to_save") or ()),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise ArtifactError(f"{path} is damaged: {error}\n  what to do: train or copy it again") from None
