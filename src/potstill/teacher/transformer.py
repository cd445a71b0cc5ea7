"""A tuned pretrained model as a teacher: backbone, adapters and head, from creation to the logits of texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.config import LoRAConfig, Method, PotstillConfig, RuntimeConfig, TeacherConfig, TransformerConfig
from potstill.data import Corpus, Examples
from potstill.data.tokenised import TokenisedTexts, TrainingSet, tokenise, warn_of_cut
from potstill.distillation import CrossEntropy, class_weights
from potstill.errors import ArtifactError, ConfigError, NotFoundError
from potstill.evaluation.calibration import fit_thresholds
from potstill.lora import adapters, inject, load_adapter, merged, save_adapter, saved_embedding_rows
from potstill.lora.blocks import check_num_layers, head_modules
from potstill.lora.counting import count_parameters
from potstill.predict.directory import ADAPTER_CONFIG, TEACHER_MANIFEST, TRAINED_FILE, LongTexts
from potstill.predict.tokens import intern_tokenizer, set_pair_separator
from potstill.store.checksums import assert_unchanged, atomic_save, digest
from potstill.store.tensors import load_tensors, save_tensors
from potstill.task import task_of
from potstill.teacher.backbone.classifier import TextClassifier, build_classifier, reorder_classes
from potstill.teacher.backbone.echo import Echo
from potstill.teacher.backbone.sources import (
    check_architecture,
    is_causal,
    load_config,
    load_tokenizer,
    outline,
    pad_token_id,
)
from potstill.teacher.backbone.vocabulary import check_vocabulary
from potstill.teacher.base import Teacher
from potstill.teacher.manifest import TeacherManifest
from potstill.training.base import FitContext, FitResult, Splits
from potstill.training.callbacks import standard_callbacks
from potstill.training.compute import compress_frozen_matrices, is_mixed, make_fabric
from potstill.training.fit import fit, trained_parameters
from potstill.training.inference import predict_logits, tokens_at_once

_WITHOUT_EFFECT: Final = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "problem_type"),
    *("id2label", "label2id", "num_labels", "pad_token_id", "use_cache"),
}
"""Settings of a model that change nothing of what its blocks compute."""

_SAVED_SETTINGS: Final = ("backbone", "add_bos", "method", "echo", "num_layers")
"""Settings that a manifest holds under the same names."""

_FEW_TOKENS: Final = 4096
"""Adapters are merged into the weights for more tokens only: merging costs what it saves on a thousand tokens."""


class TransformerTeacher(Teacher):
    """A pretrained model (`classifier`) with adapters or other trained weights, its tokenizer, device and precision.

    `manifest` says how to build it again; `lora` holds the adapters' settings, and is None for other methods.
    """

    settings = TransformerConfig

    def __init__(
        self,
        classifier: TextClassifier,
        tokenizer: Tokenizer,
        lora: LoRAConfig | None,
        manifest: TeacherManifest,
        fabric: Fabric,
    ) -> None:
        self.classifier, self.lora, self.manifest, self.fabric = classifier, lora, manifest, fabric
        # With its limit set at once: the first encoding would set it, and `key` depends on it.
        self.tokenizer = intern_tokenizer(tokenizer, manifest.max_length)
        self.label_names, self.in_pairs = manifest.label_names, manifest.in_pairs
        self.label_type, self.threshold = manifest.label_type, manifest.threshold
        self.backbone, self.tokenizer_name = manifest.backbone, manifest.tokenizer

    @classmethod
    def create(
        cls,
        config: TransformerConfig,
        runtime: RuntimeConfig,
        corpus: Corpus,
        max_length: int,
        seed: int,
        long_texts: LongTexts = "head",
    ) -> TransformerTeacher:
        """Load the backbone, give it fresh adapters (with `lora`) and a fresh head, and freeze what is not trained.

        Raises:
            SourceError: Backbone or tokenizer can't be found or reached.
            ConfigError: Adapters' targets, blocks or the device don't exist, or an encoder is to read twice.
        """
        manifest = TeacherManifest(
            **{name: getattr(config, name) for name in _SAVED_SETTINGS},
            tokenizer=config.backbone,
            seed=seed,
            lora=config.lora if config.method == "lora" else None,
            base="",
            **{name: getattr(corpus, name) for name in ("label_names", "in_pairs", "label_type")},
            max_length=max_length,
            long_texts=long_texts,
            threshold=(0.5,) * corpus.num_classes if corpus.is_multi_label else None,
        )
        classifier, tokenizer = _base(manifest, label_names=corpus.label_names)
        base = _base_digest(classifier.model)  # adapters change it
        manifest = replace(manifest, base=base, max_length=min(max_length, classifier.max_length))
        prepare(classifier.model, config)
        return cls(classifier, tokenizer, manifest.lora, manifest, _place(classifier, runtime))

    @classmethod
    def load(cls, directory: Path, runtime: RuntimeConfig) -> TransformerTeacher:
        """Read what `save` wrote; the base comes from its own source again.

        Raises:
            ArtifactError: The directory is incomplete, altered or damaged, or the base is another one.
            SourceError: The base can't be found or reached.
            ConfigError: The base has too few blocks now.
        """
        with assert_unchanged(directory):  # files that were verified are read again
            try:
                manifest = TeacherManifest.load(directory, runtime)
                classifier, tokenizer = _base(manifest, directory=directory)
            except NotFoundError as error:
                raise NotFoundError(
                    f"{error}; if the pretrained model was moved, name its place with --teacher-base"
                ) from None
            model = classifier.model
            if (found := _base_digest(model)) != manifest.base and manifest.base:
                raise ArtifactError(
                    f"{directory}: the backbone {manifest.backbone!r} is not the one that this teacher was tuned from "
                    f"(expected weights {manifest.base}, found {found})\n"
                    f"  what to do: restore that backbone, or tune again"
                )
            manifest = replace(manifest, base=found, max_length=min(manifest.max_length, classifier.max_length))
            lora = None
            if manifest.method == "lora":
                lora = load_adapter(model, directory)
            else:
                _freeze(model, manifest.method)
                load_tensors(trained_parameters(model), directory / TRAINED_FILE)
        return cls(classifier, tokenizer, lora, manifest, _place(classifier, runtime))

    @classmethod
    def obtain(
        cls, config: PotstillConfig, corpus: Corpus, directory: Path, seed: int
    ) -> tuple[TransformerTeacher, FitResult]:
        """Tune the backbone on the labels: adapters, or what else `teacher.method` names. See `Teacher.obtain`."""
        settings = transformer_settings(config)
        teacher = cls.create(settings, config.runtime, corpus, config.data.max_length, seed, config.data.long_texts)
        context = FitContext(
            settings.training,
            teacher.fabric,
            seed,
            f"teacher {seed}",
            standard_callbacks(
                settings.training, config.runtime, directory, (settings,), save=lambda: teacher.save(directory)
            ),
            max_microbatch_tokens=tokens_at_once(teacher.fabric),
        )
        data = Splits(teacher.featurise(corpus.train), teacher.featurise(corpus.validation))
        if seed not in settings.seeds[1:]:  # once
            teacher.warn_of_cut(corpus.train)
        loss = CrossEntropy(class_weights(settings.training, corpus), task_of(corpus))
        fitted = fit(teacher.classifier, data, loss, context)
        if corpus.is_multi_label:
            thresholds = fit_thresholds(teacher.logits(corpus.validation), corpus.validation.labels)
            teacher.threshold, teacher.manifest = thresholds, replace(teacher.manifest, threshold=thresholds)
            teacher.save(directory)
        return teacher, fitted

    @classmethod
    def check(cls, settings: TransformerConfig) -> None:
        """Find backbone and tokenizer; no weights are read. Errors as for `create`."""
        base = load_config(settings.backbone)
        check_architecture(settings.backbone, base)
        if settings.echo:
            _check_decoder(base)
        if settings.num_layers is not None:
            check_num_layers(base, settings.num_layers)
        _tokenizer(settings, settings.backbone, base)

    def save(self, directory: Path) -> None:
        """Write what was trained and the manifest, with checksums; the base is not copied."""
        with atomic_save(directory) as staged:
            if self.lora is not None:
                plain = not self.manifest.echo and self.manifest.num_layers is None
                save_adapter(self.classifier.model, self.lora, staged, base=self.manifest.backbone, plain=plain)
            else:
                save_tensors(trained_parameters(self.classifier.model), staged / TRAINED_FILE)
            self.manifest.save(staged)

    def describe(self) -> str:
        """Say what was tuned, and how."""
        return self.known_settings(TransformerConfig()).describe()

    def known_settings(self, given: TeacherConfig) -> TransformerConfig:
        """Return `given` with this teacher's own settings, as far as they were saved."""
        config = given if isinstance(given, TransformerConfig) else TransformerConfig()
        known = {name: getattr(self.manifest, name) for name in _SAVED_SETTINGS}
        lora = self.manifest.lora or self.lora
        return config.model_copy(update=known | ({} if lora is None else {"lora": lora}))

    def reorder(self, label_names: tuple[str, ...]) -> None:
        """Put its classes into the order of `label_names`, unless these are others."""
        if sorted(label_names) == sorted(self.label_names) and label_names != self.label_names:
            reorder_classes(self.classifier.model, self.label_names, label_names)
            self.manifest = self.manifest.reordered(label_names)
            self.label_names, self.threshold = label_names, self.manifest.threshold

    def limit_length(self, max_length: int) -> None:
        """Read `max_length` tokens at most, if `peft` made its adapters: with how many is then not known."""
        if self.manifest.method == "lora" and self.manifest.lora is None and max_length < self.manifest.max_length:
            self.manifest = replace(self.manifest, max_length=max_length)
            # A copy: another teacher may share the tokenizer.
            self.tokenizer = intern_tokenizer(Tokenizer.from_str(self.tokenizer.to_str()), max_length)

    @property
    def key(self) -> str:
        """A digest of everything that decides a logit: base, trained weights, tokenizer, length, precision."""
        classifier, values = self.classifier, self.classifier.model.config.to_diff_dict()
        config = {name: value for name, value in values.items() if name not in _WITHOUT_EFFECT}
        scalings = [adapter.scaling for _, adapter in adapters(classifier)]
        precision = "bf16" if is_mixed(self.fabric) else "float32"
        reading = (self.manifest.max_length, classifier.pad_token_id, classifier.echo, classifier.with_types)
        cutting = () if self.manifest.long_texts == "head" else (self.manifest.long_texts,)  # keys of before stay
        settings = (scalings, *reading, precision, *cutting)
        base = [self.manifest.base, json.dumps(config, sort_keys=True, default=str)]
        return digest([*base, _digest(trained_parameters(self.classifier)), self.tokenizer.to_str(), str(settings)])

    def bytes_on_disk(self, directory: Path) -> int:
        """Return the bytes of all its parameters as float32, and of the files that describe it."""
        files = [file for name in (TEACHER_MANIFEST, ADAPTER_CONFIG) if (file := directory / name).is_file()]
        return 4 * self.parameters[0] + sum(file.stat().st_size for file in files)

    @property
    def parameters(self) -> tuple[int, int]:
        """Number of all parameters, and of those that are trained."""
        return count_parameters(self.classifier)

    def featurise(self, examples: Examples, *, cached: bool = True) -> TrainingSet:
        """Tokenise `examples`, twice each with `echo`; with `cached` their ids are kept on disk."""
        tokens = self._tokenise(examples, cached=cached)
        if self.classifier.echo is not None:
            tokens = self.classifier.echo.repeat(tokens)
        return TrainingSet(tokens, torch.from_numpy(examples.labels), self.classifier.pad_token_id)

    def _tokenise(self, examples: Examples, *, cached: bool = True) -> TokenisedTexts:
        manifest, classifier = self.manifest, self.classifier
        settings = (manifest.max_length, classifier.pad_token_id, manifest.long_texts)
        return tokenise(examples, self.tokenizer, *settings, with_types=classifier.with_types, cached=cached)

    def warn_of_cut(self, examples: Examples, **remedy: str) -> None:
        """Warn where it does not read the whole of labelled texts; see `data.tokenised.warn_of_cut`."""
        warn_of_cut(self._tokenise(examples), examples.labels, self.manifest.max_length, "teacher", **remedy)

    def logits_of_stream(self, examples: Examples) -> tuple[NDArray[np.float32], list[bool | None]]:
        """See `Teacher.logits_of_stream`: the texts are tokenised once."""
        data = self.featurise(examples, cached=False)
        lost = data.tokens.lost
        return self._logits(data), [None] * len(examples) if lost is None else (lost > 0).tolist()

    def logits(
        self, examples: Examples, *, cached: bool = True, on_batch: Callable[[int], object] = lambda _: None
    ) -> NDArray[np.float32]:
        """Return the logits of texts, (texts, classes); see `Teacher.logits`."""
        return self._logits(self.featurise(examples, cached=cached), on_batch)

    def _logits(self, data: TrainingSet, on_batch: Callable[[int], object] = lambda _: None) -> NDArray[np.float32]:
        with merged(self.classifier) if len(data.tokens.ids) > _FEW_TOKENS else nullcontext():
            return predict_logits(self.classifier, data, self.fabric, on_batch=on_batch).numpy()


def share_base_weights(teachers: Sequence[Teacher]) -> None:
    """Make equal frozen weights of transformers one tensor: several sets of adapters take the memory of one base.

    Merging an adapter replaces weights and never writes into them, so the other teachers don't change.
    """
    kept: dict[str, nn.Parameter] = {}
    for teacher in (one for one in teachers if isinstance(one, TransformerTeacher)):
        for name, weight in teacher.classifier.named_parameters():
            if weight.requires_grad:
                continue
            first = kept.setdefault(name, weight)
            if first is not weight and first.dtype == weight.dtype and torch.equal(first, weight):
                weight.data = first.data


def prepare(model: PreTrainedModel, config: TransformerConfig) -> None:
    """Put in the adapters, or freeze what `config.method` doesn't train. Errors as for `inject`."""
    if config.method == "lora":
        inject(model, config.lora)
    else:
        _freeze(model, config.method)


def transformer_settings(config: PotstillConfig) -> TransformerConfig:
    """Return the settings of a teacher that is a transformer; a ConfigError refuses other kinds."""
    if not isinstance(config.teacher, TransformerConfig):
        raise ConfigError([f"teacher.kind: this needs a pretrained language model, found {config.teacher.kind!r}"])
    return config.teacher


def _base(
    manifest: TeacherManifest, label_names: Sequence[str] | None = None, directory: Path | None = None
) -> tuple[TextClassifier, Tokenizer]:
    """Build the model as it is before any adapter, and its tokenizer; `directory` may hold an adapter's embeddings.

    See `build_classifier` for `label_names`.
    """
    config = load_config(manifest.backbone)
    rows = None
    if directory is not None and manifest.method == "lora":
        rows = saved_embedding_rows(outline(config), directory)
    tokenizer = _tokenizer(manifest, manifest.tokenizer, config, rows)
    rules = tokenizer.backend_tokenizer
    torch.manual_seed(manifest.seed)
    classifier = build_classifier(
        manifest.backbone,
        len(manifest.label_names),
        pad_token_id(tokenizer),
        label_names=label_names,
        num_layers=manifest.num_layers,
    )
    # As `transformers` decides it: some tokenizers leave out what their model could read.
    classifier.with_types = classifier.reads_types and "token_type_ids" in tokenizer.model_input_names
    if manifest.echo:
        _check_decoder(config)
        classifier.echo = Echo.of(rules)
    return classifier, rules


def _tokenizer(
    settings: TransformerConfig | TeacherManifest, name: str, config: PretrainedConfig, rows: int | None = None
) -> PreTrainedTokenizerBase:
    """Load a tokenizer that adds what the backbone reads before a text; refuse one that does not fit it."""
    tokenizer = load_tokenizer(name)
    rules = tokenizer.backend_tokenizer
    if settings.add_bos and is_causal(config):
        bos, bos_id = tokenizer.bos_token, tokenizer.bos_token_id
        if bos is None:
            if tokenizer.eos_token is not None:
                set_pair_separator(rules, tokenizer.eos_token)
        elif rules.encode("a").ids[:1] != [bos_id]:  # the tokenizer does not add it by itself
            rules.post_processor = TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
            )
    rows = rows or config.get_text_config().vocab_size
    check_vocabulary(tokenizer, rows, settings.backbone)
    return tokenizer


def _check_decoder(config: PretrainedConfig) -> None:
    if not is_causal(config):
        found = f"{config.model_type!r}, which sees all of a text when it reads it once"
        raise ConfigError([f"teacher.echo: expected a decoder, found {found}; leave it off"])


def _place(classifier: TextClassifier, runtime: RuntimeConfig) -> Fabric:
    fabric = make_fabric(runtime)
    if fabric.device.type == "cpu":
        # Fused attention pays for longer texts, and on a GPU.
        classifier.model.set_attn_implementation("eager")
    if is_mixed(fabric):
        compress_frozen_matrices(classifier)
    fabric.to_device(classifier)
    return fabric


def _freeze(model: PreTrainedModel, method: Method) -> None:
    model.requires_grad_(method == "full")
    for module in head_modules(model).values():
        module.requires_grad_(True)


def _base_digest(model: PreTrainedModel) -> str:
    head = tuple(f"{name}." for name in head_modules(model))
    return _digest({name: p for name, p in model.named_parameters() if not name.startswith(head)})


def _digest(parameters: Mapping[str, nn.Parameter]) -> str:
    return digest(part for name, p in parameters.items() for part in (name, p.detach().cpu().numpy().tobytes()))
