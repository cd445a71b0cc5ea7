"""A student with its tokenizer: made, saved with an ONNX copy for the torch-free runtime."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn

from potstill.config import StudentConfig
from potstill.data import UNLABELLED, Corpus, Examples
from potstill.data.encoded import Labels, class_counts
from potstill.data.tokenised import TrainingSet, tokenise
from potstill.errors import ConfigError
from potstill.evaluation.calibration import fit_temperature, fit_threshold, fit_thresholds
from potstill.predict.abstention import ValidationAnswers
from potstill.predict.decision import Threshold, predict_class, softmax
from potstill.predict.directory import LabelType, LongTexts, Manifest, StudentFiles
from potstill.predict.ngrams import hash_ngrams
from potstill.predict.tokens import intern_tokenizer, set_pair_separator
from potstill.store.cache import cached_directory
from potstill.store.checksums import atomic_save, digest, read
from potstill.store.tensors import save_tensors
from potstill.student.base import Network
from potstill.student.embeddings import teacher_embeddings
from potstill.student.parity import prove_parity
from potstill.student.registry import student_class
from potstill.teacher.backbone.sources import load_tokenizer, pad_token_id

PADDING_TOKEN = "<pad>"  # noqa: S105 — a token of text, not a secret
SEPARATOR_TOKEN = "<sep>"  # noqa: S105
"""Between the texts of a pair."""
_LONGEST: Final = 64
"""Characters of a word that a token may be learnt from; longer runs of them are seldom words."""
_LONG_WORD: Final = re.compile(rf"\S{{{_LONGEST}}}(?=\S)")
_LONG_GAP: Final = re.compile(rf"(\s{{{_LONGEST}}})\s+")
_PIECE: Final = re.compile(rf"\S{{1,{_LONGEST}}}")
"""A word, or a part of a long one: at least one token."""
_VOCABULARY: Final = 1
"""Part of the cache's keys; raised when the same texts give another vocabulary."""


@dataclass(frozen=True)
class Student:
    """A network and what it needs to read text.

    Attributes:
        label_names: Name of each class, in the order of the logits.
        max_length: Longer texts are cut to this many tokens.
        kind: What the configuration calls the network's class.
        temperature: Prediction divides the logits by this.
        threshold: Of two classes, the second is the answer where its probability is above this. A number for each class
            where a text may have any number of them; see `predict.decision.predict_class`.
        label_type: Type of the labels in the data.
        long_texts: What it reads of longer ones.
        validation: Its answers to the validation split, by which it can abstain.
    """

    network: Network
    tokenizer: Tokenizer
    label_names: tuple[str, ...]
    max_length: int
    in_pairs: bool
    kind: str = "rnn"
    temperature: float = 1.0
    threshold: Threshold = None
    label_type: LabelType = "str"
    long_texts: LongTexts = "head"
    validation: ValidationAnswers | None = None

    @classmethod
    def create(
        cls,
        config: StudentConfig,
        corpus: Corpus,
        max_length: int,
        seed: int,
        *,
        long_texts: LongTexts = "head",
        texts: Sequence[str] | None = None,
        teacher_tokenizer: str | None = None,
        backbone: str | None = None,
    ) -> Student:
        """Build a student with fresh weights, but for embeddings that begin as the teacher's.

        `seed` decides the weights. Its own vocabulary is learnt from `texts`, which are what it learns from; None: the
        training texts. The teacher's tokenizer and backbone are named for `tokenizer: teacher` and `embedding_init:
        teacher`.

        Raises:
            SourceError: The teacher's tokenizer or backbone can't be found or reached.
            ConfigError: The teacher lacks what the settings ask for, or see `teacher_embeddings`.
        """
        texts = corpus.train.all_texts if texts is None else texts
        tokenizer, pad_id = _tokenizer(config, texts, teacher_tokenizer, max_length, in_pairs=corpus.in_pairs)
        tokenizer = intern_tokenizer(tokenizer, max_length)
        torch.manual_seed(seed)
        network = student_class(config.kind).build(
            config,
            vocab_size=1 + max(tokenizer.get_vocab().values()),  # more than there are tokens where ids have gaps
            num_classes=corpus.num_classes,
            pad_token_id=pad_id,
        )
        if corpus.is_multi_label and network.bias is not None:
            _start_bias(network.bias, corpus.train.labels)
        names, in_pairs, types = corpus.label_names, corpus.in_pairs, corpus.label_type
        threshold = (0.5,) * corpus.num_classes if corpus.is_multi_label else None
        student = cls(
            network,
            tokenizer,
            names,
            max_length,
            in_pairs,
            config.kind,
            threshold=threshold,
            label_type=types,
            long_texts=long_texts,
        )
        if config.embedding_init == "teacher":
            student._start_embeddings(texts, backbone, teacher_tokenizer)
        return student

    def save(self, directory: Path) -> None:
        """Write weights, tokenizer, manifest and the ONNX graph that `potstill.predict` predicts with.

        Raises:
            ArtifactError: The system refuses. What was saved there before stands.
        """
        names = [field.name for field in fields(Manifest) if hasattr(self, field.name)]
        manifest = Manifest(spec=asdict(self.network.spec), **{name: getattr(self, name) for name in names})
        with atomic_save(directory) as staged:
            files = StudentFiles(staged)
            save_tensors(self.network.state_dict(), files.weights)
            files.tokenizer.write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")
            files.model.write_bytes(self.network.to_onnx())
            manifest.save(files.manifest)

    def prove(self, directory: Path) -> None:
        """Check that the saved graph computes what this network computes.

        Raises:
            ArtifactError: It does not, or is not what was saved.
        """
        name = StudentFiles(directory).model.name
        prove_parity(self.network, read(directory, [name])[name], seed=0)

    def calibrated(self, logits: NDArray[np.float32], labels: Labels, *, tune_threshold: bool = False) -> Student:
        """Return this student with the temperature and the thresholds that suit these texts best.

        Both are fitted to its own logits on the validation split, (texts, classes), and its labels. `tune_threshold`:
        whether one of two classes that exclude each other gets a threshold. With them come its answers there, unless
        texts may have several labels.
        """
        temperature = fit_temperature(logits, labels)
        if labels.ndim > 1:
            return replace(self, temperature=temperature, threshold=fit_thresholds(logits, labels, temperature))
        is_tuned = tune_threshold and len(self.label_names) == 2
        threshold = fit_threshold(logits, labels, temperature) if is_tuned else None
        probabilities = softmax(logits, temperature)
        answers = ValidationAnswers.of(probabilities, predict_class(probabilities, threshold), labels)
        return replace(self, temperature=temperature, threshold=threshold, validation=answers)

    def featurise(self, examples: Examples, teacher_logits: NDArray[np.float32] | None = None) -> TrainingSet:
        """Tokenise `examples` for this student; `teacher_logits`, (texts, classes), go along unchanged."""
        spec, ngrams = self.network.spec, None
        tokens = tokenise(examples, self.tokenizer, self.max_length, spec.pad_token_id, self.long_texts)
        logits = None if teacher_logits is None else torch.from_numpy(teacher_logits)
        if spec.ngram_size:
            cutting = (self.max_length, self.long_texts)
            ngrams = hash_ngrams(examples.texts, examples.pairs, spec.ngram_buckets, *cutting)
        return TrainingSet(tokens, torch.from_numpy(examples.labels), spec.pad_token_id, logits, ngrams)

    @torch.no_grad()
    def _start_embeddings(self, texts: Sequence[str], backbone: str | None, teacher_tokenizer: str | None) -> None:
        table, spec = getattr(self.network, "embedding", None), self.network.spec
        if backbone is None or teacher_tokenizer is None:
            raise ConfigError(["student.embedding_init: this teacher has no embeddings; choose `random`"])
        if table is None:
            raise ConfigError([f"student.embedding_init: a student of kind {self.kind!r} has none; choose `random`"])
        examples = Examples(tuple(texts), np.full(len(texts), UNLABELLED))
        ids = tokenise(examples, self.tokenizer, self.max_length, empty_id=spec.pad_token_id).ids
        counts, names = np.bincount(ids, minlength=spec.vocab_size), (backbone, teacher_tokenizer)
        table.weight.copy_(teacher_embeddings(self.tokenizer, counts, table.embedding_dim, spec.pad_token_id, *names))


@torch.no_grad()
def _start_bias(bias: nn.Parameter, labels: Labels) -> None:
    """Let each class begin with the log-odds of its frequency: most are rare, and a step is small.

    Lin et al. 2017, "Focal Loss for Dense Object Detection" (arXiv 1708.02002), section 3.3. Without it the first
    hundreds of steps of a sum over many classes teach little else. `labels` are 0 and 1, (texts, classes).
    """
    counts = class_counts(labels, labels.shape[1])
    bias.copy_(torch.from_numpy(np.log((counts + 1) / (len(labels) - counts + 1))))


@torch.no_grad()
def round_tables(network: Network) -> None:
    """Round embedding tables, most of a student, to half precision, so that its graph can store them as such."""
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            module.weight.copy_(module.weight.half())


def student_bytes(directory: Path) -> int:
    """Return what a student takes on disk to predict: graph, tokenizer and manifest."""
    return sum(path.stat().st_size for path in StudentFiles(directory).needed)


def train_vocabulary(
    texts: Sequence[str], size: int, *, in_pairs: bool = False, max_length: int | None = None
) -> Tokenizer:
    """Learn a byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) over the bytes of the texts.

    Starting from bytes, as GPT-2 does, no text is ever unknown. Training is deterministic. The time to learn from a
    word is quadratic in its length, so that very long ones are broken. There are at most `size` tokens; `in_pairs` adds
    one between two texts; `max_length` is how many tokens of a text are ever read (None: all): no more words of it are
    learnt from.
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
    tokenizer.train_from_iterator((readable_part(text, max_length) for text in texts), trainer)
    if in_pairs:
        set_pair_separator(tokenizer, SEPARATOR_TOKEN)
    return tokenizer


def readable_part(text: str, max_length: int | None) -> str:
    """Return the first `max_length` words of a text; line breaks, which part tokens, break long ones."""
    if max_length is not None:
        pieces = list(itertools.islice(_PIECE.finditer(text), max_length))
        text = text[: pieces[-1].end()] if pieces else text
    return _LONG_WORD.sub(r"\g<0>\n", _LONG_GAP.sub(r"\1", text))


def _tokenizer(
    config: StudentConfig, texts: Sequence[str], teacher_tokenizer: str | None, max_length: int, *, in_pairs: bool
) -> tuple[Tokenizer, int]:
    """Return the student's tokenizer and its padding id; a vocabulary is learnt once for all seeds, and kept."""
    if config.tokenizer == "bpe":
        settings = str((_VOCABULARY, tokenizers.__version__, config.vocab_size, in_pairs, max_length))

        def learn(directory: Path) -> None:
            vocabulary = train_vocabulary(texts, config.vocab_size, in_pairs=in_pairs, max_length=max_length)
            vocabulary.save(str(directory / "tokenizer.json"))

        learnt = cached_directory("vocabularies", digest([settings, *texts]), learn)
        tokenizer = Tokenizer.from_file(str(learnt / "tokenizer.json"))
        return tokenizer, tokenizer.get_vocab()[PADDING_TOKEN]
    if teacher_tokenizer is None:
        raise ConfigError(["student.tokenizer: this teacher has no tokenizer; choose `bpe`"])
    loaded = load_tokenizer(teacher_tokenizer)
    if in_pairs and (separator := loaded.sep_token or loaded.eos_token or loaded.bos_token) is not None:
        set_pair_separator(loaded.backend_tokenizer, separator)
    return loaded.backend_tokenizer, pad_token_id(loaded)
