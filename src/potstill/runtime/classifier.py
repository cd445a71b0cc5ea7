"""Prediction with a saved student: tokenizers, onnxruntime and numpy; no torch."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from potstill.errors import ArtifactError
from potstill.runtime.decision import decide, softmax
from potstill.runtime.directory import Manifest, StudentFiles, require_graph, require_student
from potstill.runtime.seal import read
from potstill.runtime.session import EXTERNAL, INPUT_IDS, LENGTHS, LOGITS, open_session, run
from potstill.runtime.words import WordEncoder

Texts = Iterable[str] | Iterable[tuple[str, str]]
"""Texts to classify, or pairs of texts for a student of sentence pairs."""

_MOST_SHARED: Final = 16
"""Encoders that are used again where the same student is loaded again, with the words they know; the reason stands in
`potstill.tokens.shared`, and reading the file is saved, too."""


class Classifier:
    """A saved student, ready to predict.

    The methods follow scikit-learn: `predict`, `predict_proba`, `classes_`. They may be called from several threads.

        classifier = Classifier.load("runs/NAME/distilled/seed-0")
        classifier.predict(["The cat sat.", "Cat the sat."])
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, encoder: WordEncoder, manifest: Manifest, batch_size: int = 64
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number, found {batch_size}")
        self._session = session
        self._encoder = encoder
        self._padding_id: int = manifest.spec["padding_id"]
        self._batch_size = batch_size
        self.reads_pairs = manifest.pairs
        self.labels = manifest.label_names
        self.classes_: npt.NDArray[np.str_] = np.array(manifest.label_names)
        self.temperature = manifest.temperature
        self.threshold = manifest.threshold

    @classmethod
    def load(
        cls, path: Path | str, *, batch_size: int = 64, threads: int | None = None, int8: bool = False
    ) -> Classifier:
        """Read a saved student.

        Args:
            path: Its directory.
            batch_size: Most texts that are computed at once; bounds the memory, together with the student's
                `max_tokens`.
            threads: Threads of one call; none: one per core.
            int8: Compute with weights of 8 bits, where `potstill export` found that worth writing. Not the default:
                there a text's probabilities move a little with the texts that it is computed with.

        Raises:
            ArtifactError: The directory is missing or incomplete, or its files are damaged or don't belong together.
        """
        files = StudentFiles(Path(path))
        require_student(files.directory)
        require_graph(files.directory)
        model = _int8_model(files) if int8 else files.model
        found = read(files.directory, [file.name for file in (files.manifest, files.tokenizer, model)])
        manifest = Manifest.parse(found[files.manifest.name], files.manifest)
        encoder = _load_tokenizer(
            found[files.tokenizer.name], files.tokenizer, manifest.spec["vocab_size"], manifest.max_tokens
        )
        session = _load_model(found[model.name], model, len(manifest.label_names), threads)
        return cls(session, encoder, manifest, batch_size)

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

        White space around a text makes no difference.

        Raises:
            TypeError: `texts` is a single text, or holds anything but texts (of a student of pairs: pairs of texts).
        """
        first, second = _split(texts, self.reads_pairs)
        ids = self._encoder.encode(first, second, empty_id=self._padding_id)
        logits = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        # Texts of like length share a batch: padding, which is computed too, stays short.
        order = np.argsort([len(sequence) for sequence in ids], kind="stable")
        for start in range(0, len(ids), self._batch_size):
            batch = order[start : start + self._batch_size]
            logits[batch] = run(self._session, [ids[place] for place in batch], self._padding_id)
        return logits


def _split(texts: Texts, in_pairs: bool) -> tuple[list[str], list[str] | None]:
    """Check the input; return the texts and, when they are to come in pairs, the second texts.

    The white space around them is left out: a line of a file ends with some, no text that was learnt from did.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"expected a list of texts, found {_describe(texts)}; put a single text in a list")
    items: list[Any] = list(texts)
    expected = "a pair of texts (str, str)" if in_pairs else "a text (str)"
    for place, item in enumerate(items):
        if not (_is_pair(item) if in_pairs else isinstance(item, str)):
            raise TypeError(f"item {place}: expected {expected}, found {_describe(item)}")
    if not in_pairs:
        return [text.strip() for text in items], None
    return [first.strip() for first, _ in items], [second.strip() for _, second in items]


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _describe(value: object) -> str:
    """Name a value's type, and show the start of the value itself."""
    return f"{type(value).__name__} {repr(value)[:40]}"


def _int8_model(files: StudentFiles) -> Path:
    if not files.int8_model.is_file():
        raise ArtifactError(
            f"{files.directory} holds no 8-bit variant: expected a file {files.int8_model.name}, found none\n"
            "  what to do: `potstill export` the student, which says whether one is worth having; or leave int8 out"
        )
    return files.int8_model


def _load_tokenizer(content: bytes, path: Path, vocab_size: int, max_tokens: int) -> WordEncoder:
    try:
        encoder = _shared_encoder(content, max_tokens)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise _damaged(path, "a tokenizer", error) from None
    found = encoder.tokenizer.get_vocab_size(with_added_tokens=True)
    if found > vocab_size:  # fewer is fine: some models' embeddings have rows to spare
        raise _foreign(path, f"at most {vocab_size} tokens", f"{found}")
    return encoder


@functools.lru_cache(maxsize=_MOST_SHARED)
def _shared_encoder(content: bytes, max_tokens: int) -> WordEncoder:
    return WordEncoder(Tokenizer.from_str(content.decode("utf-8")), max_tokens)


def _load_model(content: bytes, path: Path, num_classes: int, threads: int | None) -> onnxruntime.InferenceSession:
    if EXTERNAL in content:
        raise _foreign(path, "a model that is whole", "one that names other files")
    try:
        session = open_session(content, threads)
    except Exception as error:  # onnxruntime's errors share no public base class
        raise _damaged(path, "an ONNX model", error) from None
    inputs = {node.name for node in session.get_inputs()}
    outputs = {node.name: node.shape[-1] for node in session.get_outputs()}
    expected = ({INPUT_IDS, LENGTHS}, {LOGITS: num_classes})
    if (inputs, outputs) != expected:
        raise _foreign(path, f"inputs and outputs {expected}", f"{(inputs, outputs)}")
    return session


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
