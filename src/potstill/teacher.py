"""The tuned pretrained model: backbone, adapters and head, from its making to its judgement of any text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from lightning_fabric import Fabric
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from potstill.artifacts import digest, read_json, write_json
from potstill.backbone import TextClassifier, build_classifier, load_config, load_tokenizer, padding_id
from potstill.config import LoRAConfig, RuntimeConfig, TeacherConfig
from potstill.data import Corpus, Examples
from potstill.data.tokenised import TrainingSet, tokenise
from potstill.errors import ArtifactError
from potstill.lora import CONFIG_FILE, adapters, inject, load_adapter, save_adapter
from potstill.runtime.directory import TEACHER_MANIFEST
from potstill.tokens import limit
from potstill.training.compute import compress_frozen_matrices, is_mixed, make_fabric
from potstill.training.loop import predict_logits

_FORMAT: Final = 1


@dataclass(frozen=True)
class TeacherManifest:
    """What has to be known, beside the trained weights, to build a teacher again.

    Attributes:
        backbone: Name of the pretrained model, as it was given.
        tokenizer: Name of the tokenizer.
        add_bos: Whether texts begin with the beginning-of-text token.
        random_init: Whether the base was drawn at random, from `seed`.
        seed: Seed of everything random at its making.
        base: Digest of the frozen weights.
        label_names: Name of each class.
        pairs: Whether pairs of texts are classified.
        max_tokens: Longer texts are cut: what was asked for, or less where the backbone has fewer positions.
    """

    backbone: str
    tokenizer: str
    add_bos: bool
    random_init: bool
    seed: int
    base: str
    label_names: tuple[str, ...]
    max_tokens: int
    pairs: bool


@dataclass(frozen=True)
class Teacher:
    """A pretrained model with adapters and head, its tokenizer, and where it computes."""

    classifier: TextClassifier
    tokenizer: Tokenizer
    lora: LoRAConfig
    manifest: TeacherManifest
    fabric: Fabric

    def __post_init__(self) -> None:
        """Set the tokenizer's limit at once: the first encoding would, and `key` depends on it."""
        limit(self.tokenizer, self.manifest.max_tokens)

    @classmethod
    def create(
        cls, config: TeacherConfig, runtime: RuntimeConfig, corpus: Corpus, max_tokens: int, seed: int
    ) -> Teacher:
        """Load the backbone and give it fresh adapters and a fresh head.

        Raises:
            SourceError: Backbone or tokenizer can't be found or reached.
            ConfigError: The adapters' targets don't exist, or the device doesn't.
        """
        tokenizer_name = config.tokenizer or config.backbone
        classifier, tokenizer = _base(
            config.backbone,
            tokenizer_name,
            corpus.num_classes,
            add_bos=config.add_bos,
            random_init=config.random_init,
            seed=seed,
        )
        inject(classifier.model, config.lora)
        manifest = TeacherManifest(
            backbone=config.backbone,
            tokenizer=tokenizer_name,
            add_bos=config.add_bos,
            random_init=config.random_init,
            seed=seed,
            base=_digest(classifier, trained=False),
            label_names=corpus.label_names,
            max_tokens=min(max_tokens, classifier.max_tokens),
            pairs=corpus.in_pairs,
        )
        return cls(classifier, tokenizer, config.lora, manifest, _place(classifier, runtime))

    @classmethod
    def load(cls, directory: Path, runtime: RuntimeConfig) -> Teacher:
        """Read what `save` wrote; the base comes from where it came from before.

        Raises:
            ArtifactError: The directory is incomplete or damaged, or the base is not the one it was trained on.
            SourceError: The base can't be found or reached.
        """
        manifest = _read_manifest(directory / TEACHER_MANIFEST)
        classifier, tokenizer = _base(
            manifest.backbone,
            manifest.tokenizer,
            len(manifest.label_names),
            add_bos=manifest.add_bos,
            random_init=manifest.random_init,
            seed=manifest.seed,
        )
        lora = load_adapter(classifier.model, directory)
        # Adapters must never stand on another base unnoticed.
        if (found := _digest(classifier, trained=False)) != manifest.base:
            raise ArtifactError(
                f"{directory}: the backbone {manifest.backbone!r} is not the one that these adapters were trained on "
                f"(expected weights {manifest.base}, found {found})\n  what to do: restore that backbone, or tune again"
            )
        return cls(classifier, tokenizer, lora, manifest, _place(classifier, runtime))

    def save(self, directory: Path) -> None:
        """Write adapters, head and manifest; the base is not copied."""
        save_adapter(self.classifier.model, self.lora, directory, base=self.manifest.backbone)
        write_json(directory / TEACHER_MANIFEST, {"format": _FORMAT, **vars(self.manifest)})

    def describe(self, config: TeacherConfig) -> TeacherConfig:
        """Return `config` with what is known of this teacher in place of what was said there."""
        known = {name: getattr(self.manifest, name) for name in ("backbone", "tokenizer", "add_bos", "random_init")}
        return config.model_copy(update=known | {"lora": self.lora})

    def key(self) -> str:
        """Return a digest of everything that decides a logit: base, trained weights, tokenizer, length, precision."""
        precision = "bf16" if is_mixed(self.fabric) else "float32"
        scalings = [adapter.scaling for _, adapter in adapters(self.classifier)]
        settings = str((scalings, self.manifest.max_tokens, precision))
        return digest([self.manifest.base, _digest(self.classifier, trained=True), self.tokenizer.to_str(), settings])

    @property
    def parameters(self) -> tuple[int, int]:
        """Count all parameters and those that are trained."""
        return count_parameters(self.classifier)

    def training_set(self, examples: Examples) -> TrainingSet:
        """Tokenise `examples`."""
        padding_id = self.classifier.padding_id
        tokens = tokenise(examples, self.tokenizer, self.manifest.max_tokens, empty_id=padding_id)
        return TrainingSet(tokens, torch.from_numpy(examples.labels), padding_id)

    def logits(self, examples: Examples, title: str | None = None) -> Tensor:
        """Judge texts; returns (texts, classes), float32. A `title` shows a progress bar."""
        return predict_logits(self.classifier, self.training_set(examples), self.fabric, title=title)


def check_sources(config: TeacherConfig) -> None:
    """Find backbone and tokenizer before anything is written or trained; their weights are not read yet.

    Raises:
        SourceError: One of them can't be found or reached.
    """
    load_config(config.backbone, random_init=config.random_init)
    load_tokenizer(config.tokenizer or config.backbone)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Count all parameters of a model and those that require a gradient."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def teacher_bytes(directory: Path, parameters: int) -> int:
    """Return what a teacher takes on disk: all its parameters as float32, and the files that describe it."""
    return 4 * parameters + sum((directory / name).stat().st_size for name in (TEACHER_MANIFEST, CONFIG_FILE))


def _base(
    backbone: str, tokenizer_name: str, num_classes: int, *, add_bos: bool, random_init: bool, seed: int
) -> tuple[TextClassifier, Tokenizer]:
    """Build the model as it is before any adapter, and its tokenizer."""
    tokenizer = load_tokenizer(tokenizer_name)
    torch.manual_seed(seed)
    # A backbone's own tokenizer is trusted: some know a special token that the embedding table has no row for.
    foreign = random_init or tokenizer_name != backbone
    classifier = build_classifier(
        backbone,
        num_classes,
        padding_id(tokenizer),
        random_init=random_init,
        vocab_size=len(tokenizer) if foreign else None,
    )
    if add_bos and classifier.is_decoder and tokenizer.bos_token is not None:
        _prepend(tokenizer.backend_tokenizer, tokenizer.bos_token, tokenizer.bos_token_id)
    return classifier, tokenizer.backend_tokenizer


def _prepend(tokenizer: Tokenizer, bos: str, bos_id: int) -> None:
    """Make `tokenizer` begin every text with `bos`, and every second text of a pair, unless it does so already."""
    if tokenizer.encode("a").ids[:1] != [bos_id]:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
        )


def _place(classifier: TextClassifier, runtime: RuntimeConfig) -> Fabric:
    """Choose device and precision and move the model there."""
    fabric = make_fabric(runtime, large=True)
    if fabric.device.type == "cpu":
        # PyTorch's fused attention is made for long sequences: with the plain one a training step on texts of 16 to
        # 128 tokens is faster on a CPU (benchmarks/attention.py).
        classifier.model.set_attn_implementation("eager")
    if is_mixed(fabric):
        compress_frozen_matrices(classifier)
    fabric.to_device(classifier)
    return fabric


def _digest(model: nn.Module, *, trained: bool) -> str:
    """Hash the weights that are trained, or those that are not."""
    chosen = ((name, p.detach().cpu()) for name, p in model.named_parameters() if p.requires_grad == trained)
    return digest(part for name, p in chosen for part in (name, p.numpy().tobytes()))


def _read_manifest(path: Path) -> TeacherManifest:
    values: dict[str, Any] = read_json(path)
    if values.pop("format", None) != _FORMAT:
        raise ArtifactError(
            f"{path}: expected a teacher of format {_FORMAT}\n  what to do: tune again with this version"
        )
    try:
        return TeacherManifest(**values | {"label_names": tuple(values["label_names"])})
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged: {error}\n  what to do: restore the file, or tune again") from None
