"""The tuned pretrained model: backbone, what was trained of it, and head, from its making to its judgement of texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from lightning_fabric import Fabric
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from potstill.artifacts import digest
from potstill.backbone import (
    FrozenPrefix,
    TextClassifier,
    build_classifier,
    check_architecture,
    check_first_blocks,
    head_modules,
    is_causal,
    load_config,
    load_tokenizer,
    padding_id,
)
from potstill.backbone.echo import Echo
from potstill.backbone.top import TopBlock
from potstill.backbone.trees import reads_trees
from potstill.config import LoRAConfig, Method, RuntimeConfig, TeacherConfig
from potstill.data import Corpus, Examples
from potstill.data.tokenised import TrainingSet, tokenise
from potstill.data.trees import are_worthwhile
from potstill.errors import ArtifactError, ConfigError
from potstill.frozen_states import frozen_states
from potstill.lora import adapters, inject, load_adapter, merged, save_adapter
from potstill.lora.counting import count_parameters
from potstill.lora.quantised import kernels, pack_weights, round_weights
from potstill.runtime.directory import ADAPTER_CONFIG, TEACHER_MANIFEST, TRAINED_FILE
from potstill.runtime.seal import sealing, undisturbed
from potstill.teacher_manifest import TeacherManifest
from potstill.tensors import load_tensors, save_tensors
from potstill.tokens import part_pairs, shared
from potstill.training.compute import compress_frozen_matrices, is_mixed, make_fabric
from potstill.training.inference import predict_logits
from potstill.training.loop import trained_parameters

_WITHOUT_EFFECT: Final = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "problem_type"),
    *("id2label", "label2id", "num_labels", "pad_token_id", "use_cache"),
}
"""Settings of a model that change nothing of what its blocks compute."""

_FEW_TOKENS: Final = 4096
"""Up to which adapters are not merged: that costs about what it saves on a thousand tokens."""


@dataclass(frozen=True)
class Teacher:
    """A pretrained model with what is trained of it, its tokenizer, and where it computes.

    Attributes:
        classifier: The model.
        tokenizer: Its tokenizer.
        lora: The adapters' settings; None where the method is another.
        manifest: How to build it again.
        fabric: Device and precision.
    """

    classifier: TextClassifier
    tokenizer: Tokenizer
    lora: LoRAConfig | None
    manifest: TeacherManifest
    fabric: Fabric

    def __post_init__(self) -> None:
        """Set the tokenizer's limit at once: the first encoding would, and `key` depends on it."""
        object.__setattr__(self, "tokenizer", shared(self.tokenizer, self.manifest.max_tokens))

    @classmethod
    def create(
        cls, config: TeacherConfig, runtime: RuntimeConfig, corpus: Corpus, max_tokens: int, seed: int
    ) -> Teacher:
        """Load the backbone, give it fresh adapters (with `lora`) and a fresh head, and freeze what is not trained.

        Raises:
            SourceError: Backbone or tokenizer can't be found or reached.
            ConfigError: The adapters' targets don't exist, an encoder is to read twice, the backbone has too few
                blocks, or the device doesn't exist.
            MissingExtraError: The base is to be packed, and the package for it is missing.
        """
        manifest = TeacherManifest(
            backbone=config.backbone,
            tokenizer=config.tokenizer_name,
            add_bos=config.add_bos,
            random_init=config.random_init,
            seed=seed,
            method=config.method,
            base_bits=config.base_bits,
            lora=config.lora.model_dump(mode="json") if config.method == "lora" else None,
            base="",
            label_names=corpus.label_names,
            max_tokens=max_tokens,
            pairs=corpus.in_pairs,
            echo=config.echo,
            first_blocks=config.first_blocks,
        )
        classifier, tokenizer = _base(manifest)
        base = _base_digest(classifier.model)  # adapters and packing change it
        manifest = replace(manifest, base=base, max_tokens=min(max_tokens, classifier.max_tokens))
        prepare(classifier.model, config)
        lora = config.lora if config.method == "lora" else None
        return cls(classifier, tokenizer, lora, manifest, _place(classifier, runtime))

    @classmethod
    def load(cls, directory: Path, runtime: RuntimeConfig, *, pack: bool = True) -> Teacher:
        """Read what `save` wrote; the base comes from where it came from before.

        Args:
            directory: The teacher's directory.
            runtime: Where it is to compute.
            pack: Keep a base of few bits packed. Else its matrices are unpacked: the same values in more memory, into
                which adapters can be merged.

        Raises:
            ArtifactError: The directory is incomplete, altered or damaged, or the base is not the one it was trained
                on.
            SourceError: The base can't be found or reached.
            ConfigError: The base has too few blocks now.
            MissingExtraError: The base is to be packed, and the package for it is missing.
        """
        with undisturbed(directory):  # what was compared is read again, by its names
            return cls._load(directory, runtime, pack=pack)

    @classmethod
    def _load(cls, directory: Path, runtime: RuntimeConfig, *, pack: bool) -> Teacher:
        manifest = TeacherManifest.load(directory)
        classifier, tokenizer = _base(manifest)
        model = classifier.model
        # What was trained must never stand on another base unnoticed.
        if (found := _base_digest(model)) != manifest.base and manifest.base:
            raise ArtifactError(
                f"{directory}: the backbone {manifest.backbone!r} is not the one that this teacher was tuned from "
                f"(expected weights {manifest.base}, found {found})\n  what to do: restore that backbone, or tune again"
            )
        manifest = replace(manifest, base=found, max_tokens=min(manifest.max_tokens, classifier.max_tokens))
        if manifest.base_bits is not None:
            reduce = pack_weights if pack else round_weights
            reduce(model, manifest.base_bits)
        lora = None
        if manifest.method == "lora":
            lora = load_adapter(model, directory)
        else:
            _freeze(model, manifest.method)
            load_tensors(trained_parameters(model), directory / TRAINED_FILE)
        return cls(classifier, tokenizer, lora, manifest, _place(classifier, runtime))

    def save(self, directory: Path) -> None:
        """Write what was trained and the manifest, sealed; the base is not copied.

        Raises:
            ArtifactError: The system refuses. What was saved there before stands.
        """
        with sealing(directory) as staged:
            if self.lora is not None:
                plain = not self.manifest.echo and self.manifest.first_blocks is None
                save_adapter(self.classifier.model, self.lora, staged, base=self.manifest.backbone, plain=plain)
            else:
                save_tensors(trained_parameters(self.classifier.model), staged / TRAINED_FILE)
            self.manifest.save(staged)

    def describe(self, config: TeacherConfig) -> TeacherConfig:
        """Return `config` with what is known of this teacher in place of what was said there."""
        names = ("backbone", "tokenizer", "add_bos", "random_init", "method", "base_bits", "echo", "first_blocks")
        known = {name: getattr(self.manifest, name) for name in names}
        lora = self.lora if self.manifest.lora is None else LoRAConfig.model_validate(self.manifest.lora)
        return config.model_copy(update=known | ({} if lora is None else {"lora": lora}))

    def key(self) -> str:
        """Return a digest of everything that decides a logit: base, trained weights, tokenizer, length, precision."""
        scalings = [adapter.scaling for _, adapter in adapters(self.classifier)]
        start = None if self.lora is None else self.lora.init  # PiSSA's moves the base
        settings = str((scalings, start, self.manifest.max_tokens, self.classifier.padding_id, self.classifier.echo))
        trained = _digest(trained_parameters(self.classifier))
        return digest([self._base_key(), trained, self.tokenizer.to_str(), settings])

    def _base_key(self) -> str:
        """Return a digest of everything that decides what the base computes: weights, settings, bits, precision."""
        config = self.classifier.model.config.to_diff_dict()
        config = {name: value for name, value in config.items() if name not in _WITHOUT_EFFECT}
        precision = "bf16" if is_mixed(self.fabric) else "float32"
        settings = str((self.manifest.base_bits, precision))
        return digest([self.manifest.base, json.dumps(config, sort_keys=True, default=str), settings])

    @property
    def b_ratio(self) -> float:
        """Learning rate of the adapters' B over that of all else, see `make_optimizer`; 1 where there are none."""
        return 1.0 if self.lora is None else self.lora.learning_rate_ratio

    @property
    def parameters(self) -> tuple[int, int]:
        """Count all parameters and those that are trained."""
        return count_parameters(self.classifier)

    def training_set(self, examples: Examples, *, cached: bool = True) -> TrainingSet:
        """Tokenise `examples`, twice each with `echo`; `cached` says whether their ids are kept on disk."""
        padding_id = self.classifier.padding_id
        tokens = tokenise(examples, self.tokenizer, self.manifest.max_tokens, empty_id=padding_id, cached=cached)
        if self.classifier.echo is not None:
            tokens = self.classifier.echo.repeat(tokens)
        return TrainingSet(tokens, torch.from_numpy(examples.labels), padding_id)

    def tuning_set(self, examples: Examples) -> TrainingSet:
        """Tokenise `examples` and compute what no step of a training changes, unless it is known: see `FrozenPrefix`.

        It holds as long as what is trained stays the same set of parameters.
        """
        data = self.training_set(examples)
        with self.fabric.autocast():
            self.classifier.prefix = prefix = FrozenPrefix.find(self.classifier)
        if prefix is None:
            return data
        depth = str(len(prefix.blocks))
        key = digest([self._base_key(), depth, data.tokens.ids.tobytes(), data.tokens.offsets.tobytes()])
        return replace(data, states=frozen_states(prefix, data, self.fabric, key))

    def logits(
        self, examples: Examples, *, cached: bool = True, on_batch: Callable[[int], object] = lambda _: None
    ) -> Tensor:
        """Judge texts; returns (texts, classes), float32. `on_batch` gets the number of texts of each batch."""
        data = self.training_set(examples, cached=cached)
        data = replace(data, as_trees=self.classifier.takes_trees and are_worthwhile([*data.tokens]))
        with self.merged() if len(data.tokens.ids) > _FEW_TOKENS else nullcontext():
            return predict_logits(self.classifier, data, self.fabric, on_batch=on_batch)

    def merged(self) -> AbstractContextManager[None]:
        """Keep the adapters in the weights for a while, where they can be: a forward pass then costs less.

        In bfloat16 a merged weight is rounded once, as the base's is anyway.
        """
        return merged(self.classifier) if self.manifest.base_bits is None else nullcontext()


def put_on_one_base(teachers: Sequence[Teacher]) -> None:
    """Let teachers keep what they have in common once: several sets of adapters then take the memory of one base.

    Frozen weights that are equal become one tensor. Merging replaces weights and writes into none.
    """
    kept: dict[str, nn.Parameter] = {}
    for teacher in teachers:
        for name, weight in teacher.classifier.named_parameters():
            if weight.requires_grad:
                continue
            first = kept.setdefault(name, weight)
            if first is not weight and first.dtype == weight.dtype and torch.equal(first, weight):
                weight.data = first.data


def prepare(model: PreTrainedModel, config: TeacherConfig) -> None:
    """Turn a pretrained model into what is trained: weights packed, adapters put in, the rest frozen.

    Raises:
        ConfigError: The adapters' targets don't exist.
        MissingExtraError: The base is to be packed, and the package for it is missing.
    """
    if config.base_bits is not None:
        pack_weights(model, config.base_bits)
    if config.method == "lora":
        inject(model, config.lora)
    else:
        _freeze(model, config.method)


def check_sources(config: TeacherConfig) -> None:
    """Find backbone and tokenizer before anything is written or trained; their weights are not read yet.

    Raises:
        SourceError: One of them can't be found, reached or used.
        ConfigError: An encoder is to read twice, or the backbone has too few blocks.
        MissingExtraError: The base is to be packed, and the package for it is missing.
    """
    if config.base_bits is not None:
        kernels()
    base = load_config(config.backbone, random_init=config.random_init)
    check_architecture(config.backbone, base)
    if config.echo:
        _check_decoder(base)
    if config.first_blocks is not None:
        check_first_blocks(base, config.first_blocks)
    load_tokenizer(config.tokenizer_name)


def teacher_bytes(directory: Path, parameters: int) -> int:
    """Return what a teacher takes on disk: all its parameters as float32, and the files that describe it."""
    described = [file for name in (TEACHER_MANIFEST, ADAPTER_CONFIG) if (file := directory / name).is_file()]
    return 4 * parameters + sum(file.stat().st_size for file in described)


def _base(manifest: TeacherManifest) -> tuple[TextClassifier, Tokenizer]:
    """Build the model as it is before any adapter, and its tokenizer.

    Raises:
        ConfigError: An encoder is to read twice, or the backbone has fewer blocks.
        SourceError: Backbone or tokenizer can't be found, reached or used.
    """
    tokenizer = load_tokenizer(manifest.tokenizer)
    rules = tokenizer.backend_tokenizer
    torch.manual_seed(manifest.seed)
    # A backbone's own tokenizer is trusted: some know a special token that the embedding table has no row for.
    foreign = manifest.random_init or manifest.tokenizer != manifest.backbone
    classifier = build_classifier(
        manifest.backbone,
        len(manifest.label_names),
        padding_id(tokenizer),
        random_init=manifest.random_init,
        vocab_size=len(tokenizer) if foreign else None,
        first_blocks=manifest.first_blocks,
    )
    if manifest.add_bos and classifier.is_decoder:
        if tokenizer.bos_token is not None:
            _prepend(rules, tokenizer.bos_token, tokenizer.bos_token_id)
        elif tokenizer.eos_token is not None:
            part_pairs(rules, tokenizer.eos_token)
    if manifest.echo:
        _check_decoder(classifier.model.config)
        classifier.echo = Echo.of(rules)
    return classifier, rules


def _check_decoder(config: PretrainedConfig) -> None:
    """Refuse an `echo` that would add nothing."""
    if not is_causal(config):
        problem = f"expected a decoder, found {config.model_type!r}, which sees all of a text when it reads it once"
        raise ConfigError([f"teacher.echo: {problem}; leave it off"])


def _prepend(tokenizer: Tokenizer, bos: str, bos_id: int) -> None:
    """Make `tokenizer` begin every text with `bos`, and every second text of a pair, unless it does so already."""
    if tokenizer.encode("a").ids[:1] != [bos_id]:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
        )


def _place(classifier: TextClassifier, runtime: RuntimeConfig) -> Fabric:
    """Choose device and precision and move the model there."""
    fabric = make_fabric(runtime)
    if fabric.device.type == "cpu":
        # Fused attention pays for longer texts (benchmarks/attention.py), and on a GPU; it knows no trees.
        classifier.model.set_attn_implementation("eager")
        classifier.takes_trees = reads_trees(classifier)
    classifier.top = TopBlock.find(classifier)
    if is_mixed(fabric):
        compress_frozen_matrices(classifier)
    fabric.to_device(classifier)
    return fabric


def _freeze(model: PreTrainedModel, method: Method) -> None:
    """Leave trainable what `full` or `head` trains."""
    model.requires_grad_(method == "full")
    for module in head_modules(model).values():
        module.requires_grad_(True)


def _base_digest(model: PreTrainedModel) -> str:
    """Hash the pretrained weights: all but the head's, which start random."""
    head = tuple(f"{name}." for name in head_modules(model))
    return _digest({name: p for name, p in model.named_parameters() if not name.startswith(head)})


def _digest(parameters: Mapping[str, nn.Parameter]) -> str:
    """Hash parameters with their names."""
    return digest(part for name, p in parameters.items() for part in (name, p.detach().cpu().numpy().tobytes()))
