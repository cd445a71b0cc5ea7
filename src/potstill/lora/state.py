"""Saving and loading what was trained: adapters, head and, where trained, biases and normalisation layers.

The directory has PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`) and PEFT's names, so that `peft`
reads what Potstill writes, and the other way round: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from transformers import PreTrainedModel

from potstill.config import LoRAConfig
from potstill.errors import ArtifactError, ConfigError
from potstill.lora.inject import inject, trained_modules
from potstill.lora.peft_format import PREFIX, peft_settings, read_peft_settings
from potstill.predict.directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from potstill.store.atomic import read_json, write_json
from potstill.store.tensors import load_tensors, save_tensors, tensor_shapes

ADAPTER_FILES: Final = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)

_COPIES = (".original_module.", ".modules_to_save.")
"""With `bias="all"` PEFT writes the head's biases twice more: as before the training, and under its wrapper's name."""


def save_adapter(model: PreTrainedModel, config: LoRAConfig, directory: Path, base: str, *, plain: bool = True) -> None:
    """Write what was trained of `model` into `directory`, made if need be. Arguments as for `peft_settings`."""
    whole = tuple(f"{name}." for name in trained_modules(model, config))
    kept = {
        tensor_name(name): parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or name.startswith(whole)
    }
    save_tensors(kept, directory / ADAPTER_WEIGHTS)
    write_json(directory / ADAPTER_CONFIG, peft_settings(model, config, base, plain=plain))


def load_adapter(model: PreTrainedModel, directory: Path) -> LoRAConfig:
    """Put the adapters of `directory` into `model`, with all that was trained or saved beside them.

    Embeddings of other tokens than the model's, which `peft` saves where they were resized, take the place of its own.

    Args:
        model: The pretrained model as it was before `inject`.
        directory: What `save_adapter` wrote, or `peft` for sequence classification.

    Returns:
        The adapters' settings.

    Raises:
        ArtifactError: A file is missing or damaged, the settings are not supported, or names and shapes are not exactly
            those that `model` needs: a missing head would otherwise silently stay random.
    """
    path = directory / ADAPTER_CONFIG
    config, frozen = read_peft_settings(model, read_json(path), tensor_shapes(directory / ADAPTER_WEIGHTS), path)
    rows = saved_embedding_rows(model, directory)
    try:
        inject(model, config, frozen=frozen)
    except ConfigError as error:
        raise ArtifactError(
            f"{path} does not fit this backbone: {'; '.join(error.problems)}\n"
            f"  what to do: use the backbone that the adapter was trained on"
        ) from None
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)  # to new weights, which are replaced
        model.get_input_embeddings().requires_grad_(True)  # saved, and part of a teacher's key
    expected = {tensor_name(name): p for name, p in model.named_parameters() if p.requires_grad}
    load_tensors(expected, directory / ADAPTER_WEIGHTS, ignored=_COPIES)
    return config


def saved_embedding_rows(model: PreTrainedModel, directory: Path) -> int | None:
    """Return how many tokens have a row in the embeddings that are saved beside adapters; None: none are."""
    table = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is table)
    shape = tensor_shapes(directory / ADAPTER_WEIGHTS).get(tensor_name(f"{name}.weight"))
    return shape[0] if shape else None


def tensor_name(name: str) -> str:
    """Return a parameter's name on disk: PEFT keeps A and B in linear layers, and has another name for the base."""
    if name.endswith((".lora_A", ".lora_B")):
        name += ".weight"
    return PREFIX + name.replace(".base.bias", ".base_layer.bias")
