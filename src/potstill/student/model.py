"""A student with its tokenizer: made, saved with an ONNX copy for the torch-free runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from potstill.backbone import load_tokenizer, padding_id
from potstill.config import StudentConfig
from potstill.data import UNLABELLED, Corpus, Examples
from potstill.data.tokenised import TrainingSet, tokenise
from potstill.errors import ConfigError
from potstill.evaluation.calibration import fit_temperature, fit_threshold
from potstill.runtime.directory import Manifest, StudentFiles
from potstill.runtime.seal import read, sealing
from potstill.student.embeddings import teacher_embeddings
from potstill.student.network import DistilRNN, StudentSpec
from potstill.student.onnx import build_model, prove_parity
from potstill.tensors import save_tensors
from potstill.tokens import part_pairs, shared

PADDING_TOKEN = "<pad>"  # noqa: S105 — a token of text, not a secret
SEPARATOR_TOKEN = "<sep>"  # noqa: S105
"""Between the texts of a pair."""


@dataclass(frozen=True)
class Student:
    """A recurrent classifier and what it needs to read text."""

    network: DistilRNN
    tokenizer: Tokenizer
    label_names: tuple[str, ...]
    max_tokens: int
    pairs: bool
    temperature: float = 1.0
    """What the runtime divides the logits by; the network's own are as they are."""
    threshold: float | None = None
    """Of two classes, the second is the answer where its probability is above this."""

    @classmethod
    def create(
        cls,
        config: StudentConfig,
        corpus: Corpus,
        max_tokens: int,
        teacher_tokenizer: str,
        seed: int,
        *,
        more_texts: Sequence[str] = (),
        backbone: str | None = None,
    ) -> Student:
        """Build a student with fresh weights, but for embeddings that begin as the teacher's.

        Args:
            config: Its shape, its tokenizer and the start of its embeddings.
            corpus: Its classes; an own vocabulary is learnt from the training texts.
            max_tokens: Longer texts are cut.
            teacher_tokenizer: Name of the tokenizer that `tokenizer: teacher` stands for.
            seed: Decides the weights.
            more_texts: What an own vocabulary is learnt from beside the training texts: those of a transfer set.
            backbone: Name of the teacher's; only `embedding_init: teacher` needs it.

        Raises:
            SourceError: A named tokenizer or backbone can't be found or reached.
            ConfigError: `embedding_init: teacher` without a backbone, or see `teacher_embeddings`.
        """
        texts = (*corpus.train.all_texts, *more_texts)
        tokenizer, padding = _tokenizer(config, texts, teacher_tokenizer, in_pairs=corpus.in_pairs)
        tokenizer = shared(tokenizer, max_tokens)
        spec = StudentSpec(
            cell=config.cell,
            vocab_size=1 + max(tokenizer.get_vocab().values()),  # more than there are tokens where ids have gaps
            embedding_size=config.embedding_size,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            bidirectional=config.bidirectional,
            pooling=config.pooling,
            dropout=config.dropout,
            num_classes=corpus.num_classes,
            padding_id=padding,
            word_dropout=config.word_dropout,
            surprisal_size=config.surprisal_size,
        )
        torch.manual_seed(seed)
        student = cls(DistilRNN(spec), tokenizer, corpus.label_names, max_tokens, corpus.in_pairs)
        if config.embedding_init == "teacher":
            student._start_embeddings(texts, backbone, teacher_tokenizer)
        return student

    def save(self, directory: Path) -> None:
        """Write weights, tokenizer, manifest and the ONNX graph that `potstill.runtime` predicts with, sealed.

        Raises:
            ArtifactError: The system refuses. What was saved there before stands.
        """
        spec, labels = asdict(self.network.spec), self.label_names
        manifest = Manifest(spec, labels, self.max_tokens, self.pairs, self.temperature, self.threshold)
        with sealing(directory) as staged:
            files = StudentFiles(staged)
            save_tensors(self.network.state_dict(), files.weights)
            files.tokenizer.write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")
            files.model.write_bytes(build_model(self.network))
            manifest.save(files.manifest)

    def prove(self, directory: Path) -> None:
        """Check that the saved graph computes what this network computes.

        Raises:
            ArtifactError: It does not, or is not what was saved.
        """
        name = StudentFiles(directory).model.name
        prove_parity(self.network, read(directory, [name])[name], seed=0)

    def calibrated(
        self, logits: NDArray[np.float32], labels: NDArray[np.int64], *, tune_threshold: bool = False
    ) -> Student:
        """Return this student with the temperature that suits these texts best and, of two classes, a threshold.

        Args:
            logits: Its own on the selection split, (texts, classes).
            labels: Class indices, (texts,).
            tune_threshold: Whether there is to be a threshold; with more than two classes there is none.
        """
        temperature = fit_temperature(logits, labels)
        threshold = None
        if tune_threshold and len(self.label_names) == 2:
            threshold = fit_threshold(logits, labels, temperature)
        return replace(self, temperature=temperature, threshold=threshold)

    def training_set(self, examples: Examples, teacher_logits: torch.Tensor | None = None) -> TrainingSet:
        """Tokenise `examples` for this student; `teacher_logits`, (texts, classes), go along unchanged."""
        padding = self.network.spec.padding_id
        tokens = tokenise(examples, self.tokenizer, self.max_tokens, empty_id=padding)
        return TrainingSet(tokens, torch.from_numpy(examples.labels), padding, teacher_logits)

    @torch.no_grad()
    def _start_embeddings(self, texts: tuple[str, ...], backbone: str | None, teacher_tokenizer: str) -> None:
        """Give the embeddings the teacher's as their start; `texts` say which tokens matter."""
        if backbone is None:
            raise ConfigError(["student.embedding_init: `teacher` needs a teacher, found none; choose `random`"])
        spec = self.network.spec
        examples = Examples(texts, np.full(len(texts), UNLABELLED))
        ids = tokenise(examples, self.tokenizer, self.max_tokens, empty_id=spec.padding_id).ids
        start = teacher_embeddings(
            self.tokenizer,
            np.bincount(ids, minlength=spec.vocab_size),
            spec.embedding_size,
            spec.padding_id,
            backbone=backbone,
            teacher_tokenizer=teacher_tokenizer,
        )
        self.network.embedding.weight.copy_(start)


def check_tokenizer(config: StudentConfig) -> None:
    """Find a named tokenizer before anything is trained.

    Raises:
        SourceError: It can't be found or reached, or has no token to pad with.
    """
    if config.tokenizer not in ("bpe", "teacher"):
        padding_id(load_tokenizer(config.tokenizer))


def student_bytes(directory: Path) -> int:
    """Return what a student takes on disk to predict: graph, tokenizer and manifest."""
    files = StudentFiles(directory)
    return sum(path.stat().st_size for path in files.needed)


def train_vocabulary(texts: Sequence[str], size: int, *, in_pairs: bool = False) -> Tokenizer:
    """Learn a byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) over the bytes of the texts.

    Starting from bytes, as GPT-2 does, no text is ever unknown. Training is deterministic. With `in_pairs` a token of
    its own stands between two texts.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PADDING_TOKEN, SEPARATOR_TOKEN] if in_pairs else [PADDING_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if in_pairs:
        part_pairs(tokenizer, SEPARATOR_TOKEN)
    return tokenizer


def _tokenizer(
    config: StudentConfig, texts: Sequence[str], teacher_tokenizer: str, *, in_pairs: bool
) -> tuple[Tokenizer, int]:
    """Return the student's tokenizer and its padding id."""
    if config.tokenizer == "bpe":
        tokenizer = train_vocabulary(texts, config.vocab_size, in_pairs=in_pairs)
        return tokenizer, tokenizer.get_vocab()[PADDING_TOKEN]
    loaded = load_tokenizer(teacher_tokenizer if config.tokenizer == "teacher" else config.tokenizer)
    if in_pairs and (separator := loaded.sep_token or loaded.eos_token or loaded.bos_token) is not None:
        part_pairs(loaded.backend_tokenizer, separator)
    return loaded.backend_tokenizer, padding_id(loaded)
