"""PEFT's `adapter_config.json`: the adapters' settings as `peft` writes and reads them.

https://huggingface.co/docs/peft/developer_guides/checkpoint and, for what the settings mean, `LoraConfig` in
https://huggingface.co/docs/peft/package_reference/lora
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from potstill.config import LoRAConfig
from potstill.errors import ArtifactError
from potstill.lora.head import head_modules
from potstill.lora.inject import adapters, norm_layers, trained_modules

PREFIX: Final = "base_model.model."
"""PEFT wraps the model twice, and the names of its tensors say so."""

_READ: Final = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights", "bias"}
_WITHOUT_EFFECT: Final = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "peft_version", "inference_mode"),
    *("runtime_config", "fan_in_fan_out", "megatron_core", "qalora_group_size", "eva_config"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
}
"""Settings that do not change what the same tensors compute, or that the model or the tensors' names tell."""

_STARTS: Final = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base's weights as they are."""

_OWN: Final = "LORA+POTSTILL"
"""A kind that `peft` does not know and refuses: it would silently read each text once, by all blocks."""


def peft_settings(model: PreTrainedModel, config: LoRAConfig, base: str, *, plain: bool = True) -> dict[str, Any]:
    """Return the content of `adapter_config.json`.

    Args:
        model: A model after `inject`.
        config: What it was injected with.
        base: Name of the pretrained model, for the reader's orientation.
        plain: Whether the adapters were trained for the base and the texts as they are; else `peft` can't use them.
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
        "use_dora": config.use_dora,
        "bias": config.bias,
        "fan_in_fan_out": any(isinstance(adapter.base, Conv1D) for adapter in adapted.values()),
        "target_modules": list(adapted),
        "modules_to_save": list(trained_modules(model, config)),
        "inference_mode": True,
    }


def read_peft_settings(
    model: PreTrainedModel, values: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], path: Path
) -> tuple[LoRAConfig, frozenset[str]]:
    """Read the settings that `potstill` or `peft` wrote.

    PEFT names modules in several ways; the names of the tensors say which ones it found.

    Args:
        model: The pretrained model without adapters.
        values: Content of `adapter_config.json`.
        tensors: Shapes of the saved tensors by their names.
        path: The file of the settings, for the errors.

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
            use_dora=values.get("use_dora", False),
            bias=values.get("bias", "none"),
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
    found = {name: value for name, value in values.items() if value and name not in _READ | _WITHOUT_EFFECT}
    if values.get("peft_type") not in ("LORA", _OWN):
        found["peft_type"] = values.get("peft_type")
    if values.get("init_lora_weights") not in _STARTS:
        found["init_lora_weights"] = values["init_lora_weights"]
    if found:
        raise ArtifactError(
            f"{path}: expected LoRA, rsLoRA or DoRA with one rank and alpha for all modules, found {found}\n"
            f"  what to do: name a directory that `potstill finetune` wrote, or merge the adapter with peft"
        )
