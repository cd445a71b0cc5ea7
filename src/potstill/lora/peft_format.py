"""PEFT's `adapter_config.json`: the adapters' settings as `peft` writes and reads them.

https://huggingface.co/docs/peft/developer_guides/checkpoint and, for what the settings mean, `LoraConfig` in
https://huggingface.co/docs/peft/package_reference/lora
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from potstill.backbone.head import head_modules
from potstill.config import LoRAConfig
from potstill.errors import ArtifactError
from potstill.lora.inject import adapters, norm_layers, trained_modules
from potstill.lora.linear import LinearLike

_READ: Final = {
    *("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights", "bias"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    "modules_to_save",
}
_WITHOUT_EFFECT: Final = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "peft_version", "inference_mode"),
    *("runtime_config", "fan_in_fan_out", "megatron_core", "qalora_group_size", "eva_config"),
}
"""What says nothing about the same tensors' meaning, or is found in the model itself."""

_STARTS: Final = (None, True, False, "gaussian", "eva", "orthogonal", "pissa")
"""Ways to begin that leave the base's weights as they are; and PiSSA, whose change to them can be repeated."""


_OWN: Final = "LORA+POTSTILL"
"""A kind that `peft` does not know and refuses: it would read each text once, by all blocks, without a word."""


def peft_settings(model: PreTrainedModel, config: LoRAConfig, base: str, *, plain: bool = True) -> dict[str, Any]:
    """Return what `adapter_config.json` is to hold.

    Args:
        model: A model after `inject`.
        config: What it was injected with.
        base: Name of the pretrained model, for the reader's orientation.
        plain: Whether the base as it is, given a text as it is, computes what the adapters were trained for.
    """
    adapted = dict(adapters(model))
    # PiSSA is written as plain LoRA of twice the rank (`save_adapter`); alpha grows so that the scale stays.
    pissa = config.init == "pissa"
    ranks = 2 if pissa else 1
    alphas = (math.sqrt(2) if config.rank_stabilised else 2) if pissa else 1
    return {
        "peft_type": "LORA" if plain else _OWN,
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "r": config.rank * ranks,
        "lora_alpha": config.alpha * alphas,
        "rank_pattern": _exact({name: a.rank * ranks for name, a in adapted.items() if a.rank != config.rank}),
        "alpha_pattern": _exact({name: a.alpha * alphas for name, a in adapted.items() if a.alpha != config.alpha}),
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilised,
        "use_dora": config.dora,
        "bias": config.bias,
        "fan_in_fan_out": any(isinstance(adapter.base, Conv1D) for adapter in adapted.values()),
        "target_modules": list(adapted),
        "modules_to_save": list(trained_modules(model, config)),
        "inference_mode": True,
    }


def _exact(values: Mapping[str, float]) -> dict[str, float]:
    """Turn names into the patterns that match these names alone: PEFT reads them as regular expressions."""
    return {f"^{re.escape(name)}": value for name, value in values.items()}


def read_peft_settings(
    model: PreTrainedModel, values: Mapping[str, Any], path: Path
) -> tuple[LoRAConfig, frozenset[str]]:
    """Read the settings that `potstill` or `peft` wrote, for the model that the adapters belong to.

    PEFT's several ways to name modules become the modules' full names.

    Args:
        model: The pretrained model without adapters.
        values: Content of `adapter_config.json`.
        path: That file, for the errors.

    Returns:
        The settings, and the parts of the head that are not among the saved tensors since the pretrained model has
        them: BERT's pooler, which PEFT leaves frozen unless told otherwise.

    Raises:
        ArtifactError: A setting is missing, of the wrong kind or not supported, or names a module that is no linear
            map of the pretrained base.
    """
    _check_supported(values, path)
    try:
        saved = _saved_modules(model, values)
        targets = _targets(model, values)
        head = head_modules(model)
        unknown = saved - head.keys() - norm_layers(model).keys()
        outside = [name for name in targets if not name.startswith(f"{model.base_model_prefix}.")]
        if unknown or outside:
            raise ArtifactError(
                f"{path}: expected adapters inside {model.base_model_prefix!r}, and beside them only head and "
                f"normalisation layers trained in full, found {sorted(unknown) + outside}\n"
                f"  what to do: train again with other `target_modules`, or the whole head in `modules_to_save`"
            )
        config = LoRAConfig(
            rank=values["r"],
            alpha=values["lora_alpha"],
            rank_pattern=_resolve(values.get("rank_pattern") or {}, targets),
            alpha_pattern=_resolve(values.get("alpha_pattern") or {}, targets),
            dropout=values.get("lora_dropout", 0.0),
            rank_stabilised=values.get("use_rslora", False),
            dora=values.get("use_dora", False),
            init="pissa" if values.get("init_lora_weights") == "pissa" else "kaiming",
            bias=values.get("bias", "none"),
            targets=targets,
            train_layernorm=not saved.isdisjoint(norm_layers(model)),
        )
    except (KeyError, TypeError, AttributeError, ValidationError, re.error) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{path} can't be read: {reason}\n  what to do: train or copy it again") from None
    in_base = frozenset(name for name in head if name.startswith(f"{model.base_model_prefix}."))
    return config, in_base - saved


def _check_supported(values: Mapping[str, Any], path: Path) -> None:
    """Refuse every setting that is unknown here: new ones may change what the same tensors compute."""
    found = {name: value for name, value in values.items() if value and name not in _READ | _WITHOUT_EFFECT}
    if values.get("peft_type") not in ("LORA", _OWN):
        found["peft_type"] = values.get("peft_type")
    if values.get("init_lora_weights") not in _STARTS:
        found["init_lora_weights"] = values["init_lora_weights"]
    if found:
        raise ArtifactError(
            f"{path}: expected LoRA (plain, rsLoRA, DoRA or PiSSA), found {found}\n"
            f"  what to do: name a directory that `potstill finetune` wrote, or merge the adapter with peft"
        )


def _saved_modules(model: PreTrainedModel, values: Mapping[str, Any]) -> set[str]:
    """Return the modules trained in full: PEFT takes all whose names end so (`_set_trainable`)."""
    ends = tuple(values.get("modules_to_save") or ())
    return {name for name, _ in model.named_modules() if name.endswith(ends)}


def _targets(model: PreTrainedModel, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the adapted modules by PEFT's rules (`check_target_module_exists`)."""
    wanted, unwanted = values["target_modules"], values.get("exclude_modules") or []
    if not isinstance(wanted, str | list):
        raise TypeError(f"target_modules: expected names or an expression, found {wanted!r}")
    exact = [] if isinstance(wanted, str) else wanted
    whole = "|".join(values.get("modules_to_save") or ())
    everything = isinstance(wanted, str) and wanted.lower() == "all-linear"
    found = {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, LinearLike) if everything else _is_named(name, wanted))
        and not _is_named(name, unwanted)
        and not (whole and re.match(rf"(.*\.)?({whole})($|\.)", name))
        and (name in exact or _is_in_layers(name, values))
    }
    if strange := sorted(name for name, module in found.items() if not isinstance(module, LinearLike)):
        raise TypeError(f"target_modules: expected linear maps, found {strange[:3]}")
    if not found:
        raise TypeError(f"target_modules: expected linear maps of this backbone, found {wanted!r}")
    return tuple(found)


def _is_named(name: str, wanted: str | list[str]) -> bool:
    """Say whether a regular expression matches the whole name, or one of several ends does."""
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return f".{name}".endswith(tuple(f".{end}" for end in wanted))


def _is_in_layers(name: str, values: Mapping[str, Any]) -> bool:
    """Say whether the first number in a name is among `layers_to_transform`."""
    layers, lists = values.get("layers_to_transform"), values.get("layers_pattern") or r"[^.]*"
    if layers is None or layers == []:
        return True
    for pattern in [lists] if isinstance(lists, str) else lists:
        if match := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name):
            return int(match[1]) in ([layers] if isinstance(layers, int) else layers)
    return False


def _resolve(patterns: Mapping[str, Any], targets: tuple[str, ...]) -> dict[str, Any]:
    """Give each module the value of the first expression that matches its name or its end (`get_pattern_key`)."""
    found = {}
    for name in targets:
        value = next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), None)
        if value is not None:
            found[name] = value
    return found
