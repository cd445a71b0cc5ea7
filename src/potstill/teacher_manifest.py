"""What has to be known, beside the trained weights, to build a teacher again."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from potstill.backbone import head_modules, load_config, outline
from potstill.config import DataConfig, LoRAConfig, Method
from potstill.errors import ArtifactError
from potstill.files import parse_json, read_json, write_json
from potstill.lora import ADAPTER_FILES, tensor_name
from potstill.runtime.directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TEACHER_MANIFEST, TRAINED_FILE
from potstill.runtime.seal import is_sealed, read, settle, verify
from potstill.tensors import MARK

_FORMAT: Final = 4
_SHOWN: Final = 5
"""Problems that are told; more of them say nothing more."""


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
        echo: Whether each text is read twice.
        first_blocks: How many of the backbone's blocks are kept; None: all.
    """

    backbone: str
    tokenizer: str
    add_bos: bool
    random_init: bool
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    method: Method
    base_bits: Literal[4, 8] | None
    lora: dict[str, Any] | None
    base: str
    label_names: Annotated[tuple[str, ...], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)]
    pairs: bool
    echo: bool
    first_blocks: Annotated[int, Field(ge=1)] | None

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that hold what was trained."""
        return ADAPTER_FILES if self.method == "lora" else (TRAINED_FILE,)

    @classmethod
    def load(cls, directory: Path) -> TeacherManifest:
        """Read a teacher's manifest, having compared its directory with its seal, or make one for a `peft` adapter.

        Raises:
            ArtifactError: A file is missing, altered or damaged, or the manifest is of another version.
            SourceError: The base of `peft`'s adapter can't be found or reached.
        """
        settle(directory)
        path = directory / TEACHER_MANIFEST
        if not path.is_file():
            if (directory / ADAPTER_CONFIG).is_file() and not is_sealed(directory):
                return _of_peft(directory)
            raise ArtifactError(f"expected the file {path}, found none\n  what to do: check the path, or tune again")
        manifest = cls.parse(read(directory, [TEACHER_MANIFEST])[TEACHER_MANIFEST], path)
        verify(directory, (TEACHER_MANIFEST, *manifest.files))
        return manifest

    @classmethod
    def parse(cls, content: bytes, path: Path) -> TeacherManifest:
        """Read the content of `teacher.json` that was found at `path`.

        Raises:
            ArtifactError: It is no JSON, of another version, or a field is missing, unknown or of the wrong kind.
        """
        values = parse_json(content, path)
        if values.pop("format", None) != _FORMAT:
            raise ArtifactError(
                f"{path}: expected a teacher of format {_FORMAT}\n  what to do: tune again with this version"
            )
        problems = [f"unknown field {name!r}" for name in sorted(values.keys() - {field.name for field in fields(cls)})]
        try:
            manifest = TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
            if manifest.lora is not None:
                LoRAConfig.model_validate(manifest.lora)
        except ValidationError as error:
            problems += [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        if problems:
            raise ArtifactError(
                f"{path} is damaged: {'; '.join(problems[:_SHOWN])}\n  what to do: restore the file, or tune again"
            )
        return manifest

    def save(self, directory: Path) -> None:
        """Write the manifest."""
        write_json(directory / TEACHER_MANIFEST, {"format": _FORMAT, **vars(self)})


def _of_peft(directory: Path) -> TeacherManifest:
    """Fill in what `peft` does not note: classes are named by number, texts go in as the tokenizer has them."""
    path = directory / ADAPTER_CONFIG
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
        echo=False,
        first_blocks=None,
    )


def _count_classes(directory: Path, base: str) -> int:
    """Read the number of classes off the saved head: its one tensor that would be another size with other classes."""
    config = load_config(base)
    config.num_labels = unlikely = 7919
    last = [
        tensor_name(f"{module}.{name}")
        for module, head in head_modules(outline(config)).items()
        for name, parameter in head.named_parameters()
        if parameter.shape[0] == unlikely
    ]
    path = directory / ADAPTER_WEIGHTS
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
