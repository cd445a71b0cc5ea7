"""Prediction with a saved student: tokenizers, onnxruntime and numpy; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from potstill import tokens
from potstill.errors import ArtifactError
from potstill.runtime.decision import decide, softmax
from potstill.runtime.directory import Manifest, StudentFiles
from potstill.runtime.session import INPUT_IDS, LENGTHS, LOGITS, open_session, run

Texts = Iterable[str] | Iterable[tuple[str, str]]
"""Texts to classify, or pairs of texts for a student of sentence pairs."""


class Classifier:
    """A saved student, ready to predict.

    The methods follow scikit-learn: `predict`, `predict_proba`, `classes_`. They may be called from several threads.

        classifier = Classifier.load("runs/NAME/distilled/seed-0")
        classifier.predict(["The cat sat.", "Cat the sat."])
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, tokenizer: Tokenizer, manifest: Manifest, batch_size: int = 64
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number, found {batch_size}")
        tokens.limit(tokenizer, manifest.max_tokens)  # now, so that no thread has to change the tokenizer later
        self._session = session
        self._tokenizer = tokenizer
        self._max_tokens = manifest.max_tokens
        self._padding_id: int = manifest.spec["padding_id"]
        self._batch_size = batch_size
        self.reads_pairs = manifest.pairs
        self.labels = manifest.label_names
        self.classes_: npt.NDArray[np.str_] = np.array(manifest.label_names)
        self.temperature = manifest.temperature
        self.threshold = manifest.threshold

    @classmethod
    def load(cls, path: Path | str, *, batch_size: int = 64, threads: int | None = None) -> Classifier:
        """Read a saved student.

        Args:
            path: Its directory.
            batch_size: Most texts that are computed at once; bounds the memory, together with the student's
                `max_tokens`.
            threads: Threads of one call; none: one per core.

        Raises:
            ArtifactError: The directory is missing or incomplete, or its files are damaged or don't belong together.
        """
        files = StudentFiles(Path(path))
        manifest = Manifest.load(files.manifest)
        tokenizer = _load_tokenizer(files.tokenizer, vocab_size=manifest.spec["vocab_size"])
        session = _load_model(files.model, num_classes=len(manifest.label_names), threads=threads)
        return cls(session, tokenizer, manifest, batch_size)

    def predict(self, texts: Texts) -> npt.NDArray[np.str_]:
        """Name each text's class; returns (texts,).

        It is the most probable one. Only for a student with a `threshold` of its own it need not be: of its two classes
        the second is named where that one's probability is above the threshold.
        """
        names: npt.NDArray[np.str_] = self.classes_[decide(self.predict_proba(texts), self.threshold)]
        return names

    def predict_proba(self, texts: Texts) -> npt.NDArray[np.float32]:
        """Return each class's probability at the student's temperature, (texts, classes), in `classes_`' order."""
        return softmax(self.logits(texts), self.temperature)

    def logits(self, texts: Texts) -> npt.NDArray[np.float32]:
        """Return the scores that come out of the network, before temperature and softmax, (texts, classes).

        Raises:
            TypeError: `texts` is a single text, or holds anything but texts (of a student of pairs: pairs of texts).
        """
        first, second = _split(texts, self.reads_pairs)
        ids = tokens.encode(self._tokenizer, first, second, self._max_tokens, empty_id=self._padding_id)
        logits = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        # Texts of like length share a batch: padding, which is computed too, stays short.
        order = np.argsort([len(sequence) for sequence in ids], kind="stable")
        for start in range(0, len(ids), self._batch_size):
            batch = order[start : start + self._batch_size]
            logits[batch] = run(self._session, [ids[place] for place in batch], self._padding_id)
        return logits


def _split(texts: Texts, in_pairs: bool) -> tuple[list[str], list[str] | None]:
    """Check the input; return the texts and, when they are to come in pairs, the second texts."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"expected a list of texts, found {_describe(texts)}; put a single text in a list")
    items: list[Any] = list(texts)
    expected = "a pair of texts (str, str)" if in_pairs else "a text (str)"
    for place, item in enumerate(items):
        if not (_is_pair(item) if in_pairs else isinstance(item, str)):
            raise TypeError(f"item {place}: expected {expected}, found {_describe(item)}")
    if not in_pairs:
        return items, None
    return [first for first, _ in items], [second for _, second in items]


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _describe(value: object) -> str:
    """Name a value's type, and show the start of the value itself."""
    return f"{type(value).__name__} {repr(value)[:40]}"


def _load_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    _require(path)
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise _damaged(path, "a tokenizer", error) from None
    found = tokenizer.get_vocab_size(with_added_tokens=True)
    if found > vocab_size:  # fewer is fine: some models' embeddings have rows to spare
        raise _foreign(path, f"at most {vocab_size} tokens", f"{found}")
    return tokenizer


def _load_model(path: Path, num_classes: int, threads: int | None) -> onnxruntime.InferenceSession:
    _require(path)
    try:
        session = open_session(path, threads)
    except Exception as error:  # onnxruntime's errors share no public base class
        raise _damaged(path, "an ONNX model", error) from None
    inputs = {node.name for node in session.get_inputs()}
    outputs = {node.name: node.shape[-1] for node in session.get_outputs()}
    expected = ({INPUT_IDS, LENGTHS}, {LOGITS: num_classes})
    if (inputs, outputs) != expected:
        raise _foreign(path, f"inputs and outputs {expected}", f"{(inputs, outputs)}")
    return session


def _require(path: Path) -> None:
    if not path.is_file():
        raise ArtifactError(
            f"{path.parent} is incomplete: expected a file {path.name}, found none\n"
            "  what to do: restore it, or save the student again"
        )


def _damaged(path: Path, expected: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{path}: expected {expected}, found what can't be read: {error}\n"
        "  what to do: restore the file, or save the student again"
    )


def _foreign(path: Path, expected: str, found: str) -> ArtifactError:
    return ArtifactError(
        f"{path} does not belong to this student: expected {expected}, found {found}\n"
        "  what to do: restore the file, or save the student again"
    )
