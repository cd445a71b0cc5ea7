"""What has to be known, beside the trained weights, to build a teacher again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForSequenceClassification

from potstill.artifacts import read_json, write_json
from potstill.backbone import head_modules, load_config
from potstill.config import DataConfig, Method
from potstill.errors import ArtifactError
from potstill.lora import CONFIG_FILE, WEIGHTS_FILE, tensor_name
from potstill.runtime.directory import TEACHER_MANIFEST
from potstill.tensors import MARK

_FORMAT: Final = 2


@dataclass(frozen=True)
class TeacherManifest:
    """`teacher.json`.

    Attributes:
        backbone: Name of the pretrained model, as it was given.
        tokenizer: Name of the tokenizer.
        add_bos: Whether texts begin with the beginning-of-text token.
        random_init: Whether the base was drawn at random, from `seed`.
        seed: Seed of everything random at its making.
        method: What was trained.
        base_bits: Bits of the frozen matrices; None: they are not packed.
        lora: The adapters' settings as they were asked for, of which PEFT's file can't hold all; None without adapters,
            or where `peft` made them.
        base: Digest of the pretrained weights, all but the head's; empty where nobody noted it.
        label_names: Name of each class.
        pairs: Whether pairs of texts are classified.
        max_tokens: Longer texts are cut: what was asked for, or less where the backbone has fewer positions.
    """

    backbone: str
    tokenizer: str
    add_bos: bool
    random_init: bool
    seed: int
    method: Method
    base_bits: int | None
    lora: dict[str, Any] | None
    base: str
    label_names: tuple[str, ...]
    max_tokens: int
    pairs: bool

    @classmethod
    def load(cls, directory: Path) -> TeacherManifest:
        """Read a teacher's manifest, or make one for an adapter that `peft` wrote.

        Raises:
            ArtifactError: It is missing or damaged, or of another version.
            SourceError: The base of `peft`'s adapter can't be found or reached.
        """
        path = directory / TEACHER_MANIFEST
        if not path.is_file() and (directory / CONFIG_FILE).is_file():
            return _of_peft(directory)
        values: dict[str, Any] = read_json(path)
        if values.pop("format", None) != _FORMAT:
            raise ArtifactError(
                f"{path}: expected a teacher of format {_FORMAT}\n  what to do: tune again with this version"
            )
        try:
            manifest = cls(**values | {"label_names": tuple(values["label_names"])})
            if manifest.method not in get_args(Method) or manifest.base_bits not in (None, 4, 8):
                raise ValueError(f"unknown method {manifest.method!r} or base_bits {manifest.base_bits!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} is damaged: {error}\n  what to do: restore the file, or tune again") from None
        return manifest

    def save(self, directory: Path) -> None:
        """Write the manifest."""
        write_json(directory / TEACHER_MANIFEST, {"format": _FORMAT, **vars(self)})


def _of_peft(directory: Path) -> TeacherManifest:
    """Fill in what `peft` does not note: classes are named by number, texts go in as the tokenizer has them."""
    path = directory / CONFIG_FILE
    base = read_json(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ArtifactError(
            f"{path}: expected the base's name as `base_model_name_or_path`, found {base!r}\n"
            f"  what to do: write the name or the directory of the pretrained model there"
        )
    return TeacherManifest(
        backbone=base,
        tokenizer=str(directory) if (directory / "tokenizer.json").is_file() else base,
        add_bos=False,
        random_init=False,
        seed=0,
        method="lora",
        base_bits=None,
        lora=None,
        base="",
        label_names=tuple(map(str, range(_count_classes(directory, base)))),
        max_tokens=DataConfig().max_tokens,
        pairs=False,
    )


def _count_classes(directory: Path, base: str) -> int:
    """Read the number of classes off the saved head: its one tensor that would be another size with other classes."""
    config = load_config(base)
    config.num_labels = unlikely = 7919
    with torch.device("meta"):  # shapes alone, no weights
        model = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    last = [
        tensor_name(f"{module}.{name}")
        for module, head in head_modules(model).items()
        for name, parameter in head.named_parameters()
        if parameter.shape[0] == unlikely
    ]
    path = directory / WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as tensors:
            if MARK.items() <= (tensors.metadata() or {}).items():
                raise ArtifactError(
                    f"expected the file {directory / TEACHER_MANIFEST}, found none\n"
                    f"  what to do: copy the teacher's whole directory, or tune again"
                )
            sizes = {tensors.get_slice(name).get_shape()[0] for name in tensors.keys() if name in last}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: expected safetensors, found {error}\n  what to do: copy it again") from None
    if len(sizes) != 1:
        raise ArtifactError(
            f"{path}: expected the classification head ({', '.join(last)}), found none\n"
            f"  what to do: train it with task_type SEQ_CLS, so that `peft` saves the head too"
        )
    return int(sizes.pop())
