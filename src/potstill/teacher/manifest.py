"""What has to be known, beside the trained weights, to build a teacher again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from potstill.config import LoRAConfig, Method, RuntimeConfig
from potstill.config.data import MAX_LENGTH
from potstill.data.columns import listed
from potstill.errors import ArtifactError
from potstill.lora import ADAPTER_FILES, tensor_name
from potstill.predict.directory import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MIN_PAIR_LENGTH,
    TEACHER_MANIFEST,
    TRAINED_FILE,
    LabelType,
    LongTexts,
)
from potstill.store.atomic import parse_json, read_json, write_json
from potstill.store.checksums import has_checksums, read, recover, verify
from potstill.store.tensors import MARK
from potstill.teacher.backbone.classifier import class_parameters
from potstill.teacher.backbone.sources import load_config

_FORMAT: Final = 8
_SHOWN: Final = 5
"""Problems that a message lists at most."""


@dataclass(frozen=True)
class TeacherManifest:
    """`teacher.json`: the settings of a teacher under their own names, its classes, and how its texts are read.

    Attributes:
        lora: The adapters' settings, of which PEFT's file can't hold all; None without adapters, or where `peft` made
            them.
        threshold: See `predict.decision.predict_class`; None: it names the most probable class.
        base: Digest of the pretrained weights without the head; empty where it is not known.
        max_length: Longer texts are cut: what was asked for, or less where the backbone has fewer positions.
        long_texts: What it reads of these.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    backbone: str
    tokenizer: str
    add_bos: bool
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    method: Method
    lora: LoRAConfig | None
    base: str
    label_names: Annotated[tuple[str, ...], Field(min_length=1)]
    max_length: Annotated[int, Field(ge=1)]
    in_pairs: bool
    echo: bool
    num_layers: Annotated[int, Field(ge=1)] | None
    label_type: LabelType = "str"
    threshold: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = None
    long_texts: LongTexts = "head"
    kind: Literal["transformer"] = "transformer"

    def __post_init__(self) -> None:
        """Check that each class has a threshold, if they have any, and that pairs are not cut too short."""
        if self.threshold is not None and len(self.threshold) != len(self.label_names):
            raise ValueError(f"expected {len(self.label_names)} thresholds, found {len(self.threshold)}")
        if self.in_pairs and self.max_length < MIN_PAIR_LENGTH:
            raise ValueError(f"expected a max_length of at least {MIN_PAIR_LENGTH} for pairs, found {self.max_length}")

    def reordered(self, label_names: tuple[str, ...]) -> TeacherManifest:
        """Return it with its classes, and their thresholds, in another order."""
        places, given = [self.label_names.index(name) for name in label_names], self.threshold
        threshold = None if given is None else tuple(given[place] for place in places)
        return replace(self, label_names=label_names, threshold=threshold)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that hold what was trained."""
        return ADAPTER_FILES if self.method == "lora" else (TRAINED_FILE,)

    @classmethod
    def load(cls, directory: Path, runtime: RuntimeConfig) -> TeacherManifest:
        """Read a teacher's manifest, its files compared with their checksums, or make one for a `peft` adapter.

        `runtime` says where the base is now, and which classes such an adapter has.

        Raises:
            ArtifactError: A file is missing or damaged, or of another version, or the teacher has other classes.
            SourceError: The base of `peft`'s adapter can't be found or reached.
        """
        recover(directory)
        path = directory / TEACHER_MANIFEST
        if path.is_file():
            manifest = cls.parse(read(directory, [TEACHER_MANIFEST])[TEACHER_MANIFEST], path)
            verify(directory, (TEACHER_MANIFEST, *manifest.files))
            _classes(directory, manifest.label_names, runtime, named=True)
            base = runtime.teacher_base or manifest.backbone
            own = manifest.tokenizer == manifest.backbone
            return replace(manifest, backbone=base, tokenizer=base if own else manifest.tokenizer)
        if (directory / ADAPTER_CONFIG).is_file() and not has_checksums(directory):
            return _of_peft(directory, runtime)
        raise ArtifactError(f"expected the file {path}, found none\n  what to do: check the path, or tune again")

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
        try:
            return TypeAdapter(cls).validate_json(json.dumps(values))
        except ValidationError as error:
            found = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
            raise ArtifactError(
                f"{path} is damaged: {'; '.join(found[:_SHOWN])}\n  what to do: restore the file, or tune again"
            ) from None

    def save(self, directory: Path) -> None:
        """Write the manifest."""
        values = TypeAdapter(TeacherManifest).dump_python(self, mode="json")
        write_json(directory / TEACHER_MANIFEST, {"format": _FORMAT, **values})


def _classes(directory: Path, known: tuple[str, ...], runtime: RuntimeConfig, *, named: bool) -> tuple[str, ...]:
    """Return a teacher's classes: those that `runtime` names, where its files don't (`named`)."""
    given = runtime.teacher_classes or known
    if (named and sorted(given) != sorted(known)) or len(set(given)) != len(known) or len(given) != len(known):
        expected = f"these classes: {listed(known)}" if named else f"{len(known)} classes, in the order of its logits"
        raise ArtifactError(
            f"{directory}: --teacher-classes must name {expected}; found {listed(given)}\n"
            f"  what to do: name each once; for a teacher that Potstill tuned, leave it out"
        )
    return known if named else given


def _of_peft(directory: Path, runtime: RuntimeConfig) -> TeacherManifest:
    """Fill in what `peft` does not store: classes are numbered unless `runtime` names them.

    Texts are cut at `MAX_LENGTH`, or where the base has no more positions: how long they were in training is not known.
    """
    path = directory / ADAPTER_CONFIG
    base = runtime.teacher_base or read_json(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ArtifactError(
            f"{path}: expected the base's name as `base_model_name_or_path`, found {base!r}\n"
            f"  what to do: write the name or the directory of the pretrained model there"
        )
    numbers = tuple(map(str, range(_count_classes(directory, base))))
    return TeacherManifest(
        backbone=base,
        tokenizer=str(directory) if (directory / "tokenizer.json").is_file() else base,
        add_bos=False,
        seed=0,
        method="lora",
        lora=None,
        base="",
        label_names=_classes(directory, numbers, runtime, named=False),
        max_length=MAX_LENGTH,
        in_pairs=False,
        echo=False,
        num_layers=None,
    )


def _count_classes(directory: Path, base: str) -> int:
    """Read the number of classes off the saved head: its one tensor that would be another size with other classes."""
    last = [tensor_name(name) for name in class_parameters(load_config(base))]
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
