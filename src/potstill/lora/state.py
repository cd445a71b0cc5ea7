"""Saving and loading what was trained: adapters, head and, where trained, biases and normalisation layers.

The directory has PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`) and PEFT's names, so that `peft`
reads what Potstill writes, and the other way round: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from transformers import PreTrainedModel

from potstill.config import LoRAConfig
from potstill.errors import ArtifactError, ConfigError
from potstill.files import read_json, write_json
from potstill.lora.inject import adapters, inject, trained_modules
from potstill.lora.peft_format import peft_settings, read_peft_settings
from potstill.runtime.directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from potstill.tensors import load_tensors, save_tensors

ADAPTER_FILES: Final = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)

_PREFIX = "base_model.model."
"""PEFT wraps the model twice, and its names say so."""

_COPIES = (".original_module.", ".modules_to_save.")
"""With `bias="all"` PEFT writes the head's biases twice more: as before the training, and under its wrapper's name."""


def save_adapter(model: PreTrainedModel, config: LoRAConfig, directory: Path, base: str, *, plain: bool = True) -> None:
    """Write what was trained of `model`: adapters, head, and biases and normalisation layers where asked for.

    Args:
        model: A model after `inject`.
        config: What it was injected with.
        directory: Where to; made if need be.
        base: Name of the pretrained model, for the reader's orientation.
        plain: As for `peft_settings`.
    """
    tensors = {tensor_name(name): parameter.detach() for name, parameter in _kept(model, config).items()}
    for name, adapter in adapters(model):
        if adapter.start_a is not None and adapter.start_b is not None:
            # PiSSA's update of the pretrained weight is s (B A - B0 A0), which is plain LoRA with the two below,
            # (2 rank, in) and (out, 2 rank): nobody has to repeat a singular value decomposition to read it.
            tensors[tensor_name(f"{name}.lora_A")] = torch.cat([adapter.lora_A.detach(), adapter.start_a])
            tensors[tensor_name(f"{name}.lora_B")] = torch.cat([adapter.lora_B.detach(), -adapter.start_b], dim=1)
    save_tensors(tensors, directory / ADAPTER_WEIGHTS)
    write_json(directory / ADAPTER_CONFIG, peft_settings(model, config, base, plain=plain))


def _kept(model: PreTrainedModel, config: LoRAConfig) -> dict[str, torch.nn.Parameter]:
    """Return what a directory holds: all that is trained, and the whole of what `modules_to_save` names."""
    whole = tuple(f"{name}." for name in trained_modules(model, config))
    return {name: p for name, p in model.named_parameters() if p.requires_grad or name.startswith(whole)}


def load_adapter(model: PreTrainedModel, directory: Path) -> LoRAConfig:
    """Put the adapters of `directory` into `model`, with all that was trained beside them.

    Args:
        model: The pretrained model as it was before `inject`.
        directory: What `save_adapter` wrote, or `peft` for sequence classification.

    Returns:
        The adapters' settings. PiSSA comes back as the plain LoRA that it was written as.

    Raises:
        ArtifactError: A file is missing or damaged, the settings are not supported, or names and shapes are not exactly
            those that `model` needs: a missing head would otherwise stay random without a word.
    """
    config, frozen = read_peft_settings(model, read_json(directory / ADAPTER_CONFIG), directory / ADAPTER_CONFIG)
    try:
        inject(model, config, frozen=frozen)
    except ConfigError as error:
        raise ArtifactError(
            f"{directory / ADAPTER_CONFIG} does not fit this backbone: {'; '.join(error.problems)}\n"
            f"  what to do: use the backbone that the adapter was trained on"
        ) from None
    expected = {tensor_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    load_tensors(expected, directory / ADAPTER_WEIGHTS, ignored=_COPIES)
    return config


def tensor_name(name: str) -> str:
    """Return a parameter's name on disk: PEFT keeps A and B in linear layers, and has another name for the base."""
    if name.endswith((".lora_A", ".lora_B")):
        name += ".weight"
    return _PREFIX + name.replace(".base.bias", ".base_layer.bias")
