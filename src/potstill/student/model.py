"""A student with its tokenizer: made, saved with an ONNX copy for the torch-free runtime."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from potstill.artifacts import write_atomically
from potstill.backbone import load_tokenizer, padding_id
from potstill.config import StudentConfig
from potstill.data import Corpus, Examples
from potstill.data.tokenised import TrainingSet, tokenise
from potstill.export.onnx import build_model, prove_parity
from potstill.runtime.directory import Manifest, StudentFiles
from potstill.student.network import DistilRNN, StudentSpec

PADDING_TOKEN = "<pad>"  # noqa: S105 — a token of text, not a secret


@dataclass(frozen=True)
class Student:
    """A recurrent classifier and what it needs to read text."""

    network: DistilRNN
    tokenizer: Tokenizer
    label_names: tuple[str, ...]
    max_tokens: int
    pairs: bool

    @classmethod
    def create(
        cls, config: StudentConfig, corpus: Corpus, max_tokens: int, teacher_tokenizer: str, seed: int
    ) -> Student:
        """Build a student with fresh weights.

        Args:
            config: Its shape and tokenizer.
            corpus: Its classes; an own vocabulary is learnt from the training texts.
            max_tokens: Longer texts are cut.
            teacher_tokenizer: Name of the tokenizer that `tokenizer: teacher` stands for.
            seed: Decides the weights.

        Raises:
            SourceError: A named tokenizer can't be found or reached.
        """
        tokenizer, padding = _tokenizer(config, corpus.train, teacher_tokenizer)
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
        )
        torch.manual_seed(seed)
        return cls(DistilRNN(spec), tokenizer, corpus.label_names, max_tokens, corpus.in_pairs)

    def save(self, directory: Path) -> None:
        """Write weights, tokenizer, manifest and the ONNX graph that `potstill.runtime` predicts with."""
        files = StudentFiles(directory)
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        graph = build_model(self.network)
        manifest = Manifest(asdict(self.network.spec), self.label_names, self.max_tokens, self.pairs)
        write_atomically(files.weights, lambda path: save_file(tensors, path))
        write_atomically(files.tokenizer, lambda path: self.tokenizer.save(str(path)))
        write_atomically(files.model, lambda path: path.write_bytes(graph))
        write_atomically(files.manifest, manifest.save)

    def prove(self, directory: Path) -> None:
        """Check that the saved graph computes what this network computes.

        Raises:
            ArtifactError: It does not.
        """
        prove_parity(self.network, StudentFiles(directory).model.read_bytes(), seed=0)

    def training_set(self, examples: Examples, teacher_logits: torch.Tensor | None = None) -> TrainingSet:
        """Tokenise `examples` for this student; `teacher_logits`, (texts, classes), go along unchanged."""
        padding = self.network.spec.padding_id
        tokens = tokenise(examples, self.tokenizer, self.max_tokens, empty_id=padding)
        return TrainingSet(tokens, torch.from_numpy(examples.labels), padding, teacher_logits)


def check_tokenizer(config: StudentConfig) -> None:
    """Find a named tokenizer before anything is trained.

    Raises:
        SourceError: It can't be found or reached.
    """
    if config.tokenizer not in ("bpe", "teacher"):
        load_tokenizer(config.tokenizer)


def student_bytes(directory: Path) -> int:
    """Return what a student takes on disk to predict: graph, tokenizer and manifest."""
    files = StudentFiles(directory)
    return sum(path.stat().st_size for path in (files.model, files.tokenizer, files.manifest))


def train_vocabulary(examples: Examples, size: int) -> Tokenizer:
    """Learn a byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) over the bytes of the texts.

    Starting from bytes, as GPT-2 does, no text is ever unknown. Training is deterministic.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PADDING_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*examples.texts, *(examples.pairs or ())], trainer)
    return tokenizer


def _tokenizer(config: StudentConfig, train: Examples, teacher_tokenizer: str) -> tuple[Tokenizer, int]:
    """Return the student's tokenizer and its padding id."""
    if config.tokenizer == "bpe":
        tokenizer = train_vocabulary(train, config.vocab_size)
        return tokenizer, tokenizer.get_vocab()[PADDING_TOKEN]
    loaded = load_tokenizer(teacher_tokenizer if config.tokenizer == "teacher" else config.tokenizer)
    return loaded.backend_tokenizer, padding_id(loaded)
