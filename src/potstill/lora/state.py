"""Saving and loading what was trained: adapters, head and, where trained, normalisation layers.

The directory has PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`) and PEFT's names, so that `peft`
reads what Potstill writes, and the other way round: https://huggingface.co/docs/peft/developer_guides/checkpoint and,
for what the settings mean, `LoraConfig` in https://huggingface.co/docs/peft/package_reference/lora
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from potstill.config import LoRAConfig
from potstill.errors import ArtifactError, ConfigError
from potstill.lora.blocks import head_modules
from potstill.lora.inject import adapters, inject, norm_layers, trained_modules
from potstill.predict.directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from potstill.store.atomic import read_json, write_json
from potstill.store.tensors import load_tensors, save_tensors, tensor_shapes

ADAPTER_FILES: Final = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)

PREFIX: Final = "base_model.model."
"""PEFT wraps the model twice, and the names of its tensors say so."""

_COPIES: Final = (".original_module.", ".modules_to_save.")
"""Embeddings that were trained PEFT writes twice more: as before the training, and under its wrapper's name."""

_READ: Final = {"r", "lora_alpha", "lora_dropout", "use_rslora"}
_WITHOUT_EFFECT: Final = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "peft_version", "inference_mode"),
    *("runtime_config", "fan_in_fan_out", "megatron_core", "qalora_group_size", "eva_config"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
}
"""Settings that do not change what the same tensors compute, or that the model or the tensors' names tell."""

_OWN: Final = "LORA+POTSTILL"
"""A kind that `peft` does not know and refuses: it would silently read each text once, by all blocks."""

_ALLOWED: Final[dict[str, tuple[object, ...]]] = {
    "peft_type": ("LORA", _OWN),
    "bias": (None, "none"),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),  # they leave the base as it is
}
"""Settings of which some values are supported."""


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

    `model` is the pretrained model as it was before `inject`; `directory` is what `save_adapter` wrote, or `peft` for
    sequence classification. Returns the adapters' settings.

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
    """Return a parameter's name on disk: PEFT keeps A and B in linear layers."""
    return PREFIX + name + (".weight" if name.endswith((".lora_A", ".lora_B")) else "")


def peft_settings(model: PreTrainedModel, config: LoRAConfig, base: str, *, plain: bool = True) -> dict[str, Any]:
    """Return the content of `adapter_config.json`.

    `model` has been through `inject` with `config`; `base` names the pretrained model, for the reader's orientation;
    `plain` says whether the adapters were trained for the base and the texts as they are: else `peft` can't use them.
    """
    adapted = dict(adapters(model))
    return {
        "peft_type": "LORA" if plain else _OWN,
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.use_rslora,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(adapter.base, Conv1D) for adapter in adapted.values()),
        "target_modules": list(adapted),
        "modules_to_save": list(trained_modules(model, config)),
        "inference_mode": True,
    }


def read_peft_settings(
    model: PreTrainedModel, values: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], path: Path
) -> tuple[LoRAConfig, frozenset[str]]:
    """Read the settings that `potstill` or `peft` wrote.

    PEFT names modules in several ways; the names of the tensors say which ones it found. `model` is the pretrained
    model without adapters; `tensors` are the saved ones' shapes by name; `path` is the file of the settings, for the
    errors.

    Returns:
        The settings, and the parts of the head that are not saved since PEFT by default leaves them as pretrained:
        BERT's pooler.

    Raises:
        ArtifactError: A setting is missing, of the wrong kind or not supported, or a module has no tensors.
    """
    _check_supported(values, path)
    names = [name.removeprefix(PREFIX) for name in tensors]
    targets = tuple(dict.fromkeys(name.rpartition(".lora_")[0] for name in names if ".lora_" in name))
    weights = [name for name in names if ".lora_" not in name and name.endswith("weight")]
    listed, modules = values.get("target_modules"), dict(model.named_modules())
    full_names = listed if isinstance(listed, list) and not values.get("exclude_modules") else []
    if missing := [name for name in full_names if name in modules and name not in targets]:
        raise ArtifactError(
            f"{path}: expected adapters of all `target_modules`, found none of {missing[:3]}\n"
            f"  what to do: train or copy it again"
        )
    try:
        config = LoRAConfig(
            rank=values["r"],
            alpha=values["lora_alpha"],
            dropout=values.get("lora_dropout", 0.0),
            use_rslora=values.get("use_rslora", False),
            target_modules=targets,
            train_layernorm=any(name.removesuffix(".weight") in norm_layers(model) for name in weights),
        )
    except (KeyError, ValidationError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{path} can't be read: {reason}\n  what to do: train or copy it again") from None
    wrong = {shape for name, shape in tensors.items() if ".lora_A." in name and shape[:1] != (config.rank,)}
    if wrong:  # before any room is made for them
        raise ArtifactError(
            f"{path}: expected adapters of rank {config.rank}, found tensors of the shapes {sorted(wrong)[:3]}\n"
            f"  what to do: copy the directory again, or merge the adapter with peft"
        )
    in_base = [name for name in head_modules(model) if name.startswith(f"{model.base_model_prefix}.")]
    return config, frozenset(part for part in in_base if not any(name.startswith(f"{part}.") for name in weights))


def _check_supported(values: Mapping[str, Any], path: Path) -> None:
    """Refuse every setting that is unknown here: new ones may change what the same tensors compute."""
    known = _READ | _WITHOUT_EFFECT | _ALLOWED.keys()
    found = {name: value for name, value in values.items() if value and name not in known}
    found |= {name: values.get(name) for name, allowed in _ALLOWED.items() if values.get(name) not in allowed}
    if found:
        raise ArtifactError(
            f"{path}: expected LoRA or rsLoRA with one rank and alpha for all modules, found {found}\n"
            f"  what to do: name a directory that `potstill finetune` wrote, or merge the adapter with peft"
        )
