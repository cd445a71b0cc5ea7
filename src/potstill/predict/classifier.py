"""Prediction with a saved student: tokenizers, onnxruntime and numpy; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from potstill.errors import ArtifactError
from potstill.predict import session, tokens
from potstill.predict.abstention import prediction_sets
from potstill.predict.decision import abstains, named, predict_class, probabilities_of, typed_labels
from potstill.predict.directory import Manifest, StudentFiles, find_student, require_graph, require_student
from potstill.predict.hub import local_model
from potstill.predict.ngrams import hash_ngrams
from potstill.predict.untrusted import has_inner_graphs, settings_problem, tokenizer_problem
from potstill.store.checksums import read

Texts = Iterable[str] | Iterable[tuple[str, str]]
"""Texts to classify, or pairs of texts for a student of sentence pairs."""

_TEXTS: Final = 4096
"""Most texts that are tokenised before any is computed: enough to find some of like length for every batch."""
_CHARACTERS: Final = 1 << 18
"""Most characters of these: their n-grams take 100 bytes for each."""
_TOKENS, _NGRAMS = 1 << 14, 1 << 16
"""Most tokens or n-grams of a batch, with its padding."""
_FOREIGN: Final = "does not belong to this student"


class Classifier:
    """A saved student, ready to predict.

    The methods follow scikit-learn: `predict`, `predict_proba`, `classes_`. They may be called from several threads.

        classifier = Classifier.load("runs/NAME")  # or "owner/name" of the Hugging Face hub
        classifier.predict(["The cat sat.", "Cat the sat."])

    `task` is "multi-label" where a text may have any number of classes: then `predict` returns lists.
    """

    def __init__(
        self, model: bytes, tokenizer: Tokenizer, manifest: Manifest, batch_size: int = 64, threads: int | None = None
    ) -> None:
        self._session = session.open_session(model, threads)
        self._tokenizer = tokens.intern_tokenizer(tokenizer, manifest.max_length)
        self._parts = (model, manifest, batch_size, threads)
        self._manifest, self._batch_size = manifest, batch_size
        self._ngram_buckets: int = manifest.spec["ngram_buckets"] if manifest.spec.get("ngram_size") else 0
        self.in_pairs, self.task = manifest.in_pairs, manifest.task
        self.label_names, self.label_type = manifest.label_names, manifest.label_type
        self._labels = typed_labels(manifest.label_names, manifest.label_type)
        self._order = np.argsort(self._labels, kind="stable")
        self.classes_: npt.NDArray[Any] = self._labels[self._order]
        self.temperature = manifest.temperature
        self.threshold = manifest.threshold
        self.min_confidence = manifest.min_confidence

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        batch_size: int = 64,
        threads: int | None = None,
        coverage: float | None = None,
        max_error: float | None = None,
        revision: str | None = None,
    ) -> Classifier:
        """Read a saved student.

        Args:
            path: Its directory, or a run's: of that, the student that its report recommends. A string `owner/name` that
                is no directory here is a model of the Hugging Face hub; see `predict.hub.local_model`.
            batch_size: Most texts that are computed at once; fewer where they are long.
            threads: Threads of one call; none: one per available core, by a container's quota too.
            coverage: Share of texts to answer: `predict` returns None for the others, of which the student is the least
                sure, as the validation split tells. 1: all, also where it was exported to abstain.
            max_error: Instead of `coverage`: most errors among the answers, as a share of these. As many texts as
                possible are answered while that is so with 95 % confidence; see `predict.abstention`.
            revision: Branch, tag or commit of a model of the hub; none: its main branch.

        Raises:
            SourceError: The hub can't be reached, or does not give the model.
            ArtifactError: The directory is missing or incomplete, or its files are damaged or don't belong together; or
                the validation split can't promise `max_error`, or is not known.
            ValueError: A number is out of its range, or both `coverage` and `max_error` are given, or a revision of a
                directory.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number, found {batch_size}")
        files = StudentFiles(find_student(local_model(path, revision)))
        require_student(files.directory)
        require_graph(files.directory)
        found = read(files.directory, [file.name for file in files.needed])
        manifest = Manifest.parse(found[files.manifest.name], files.manifest)
        manifest = manifest.abstaining(files.manifest, coverage, max_error)
        tokenizer = _load_tokenizer(
            found[files.tokenizer.name], files.tokenizer, manifest.spec["vocab_size"], manifest.max_length
        )
        model = found[files.model.name]
        if session.EXTERNAL in model:
            raise _refused(files.model, _FOREIGN, "a model that is whole", "one that names other files")
        try:
            if has_inner_graphs(model):
                raise _refused(files.model, _FOREIGN, "a graph without loops", "one with Loop, Scan or If")
            classifier = cls(model, tokenizer, manifest, batch_size, threads)
        except ArtifactError:
            raise
        except Exception as error:  # onnxruntime's errors share no public base class
            raise _refused(files.model, "can't be read", "an ONNX model", error) from None
        inputs = {node.name for node in classifier._session.get_inputs()}
        outputs = {node.name: node.shape[-1] for node in classifier._session.get_outputs()}
        of_tokens, of_ngrams = {session.INPUT_IDS, session.LENGTHS}, {session.NGRAM_ROWS, session.NGRAM_WEIGHTS}
        possible = [of_ngrams, of_tokens | of_ngrams] if classifier._ngram_buckets else [of_tokens]
        expected = {session.LOGITS: len(manifest.label_names)}
        if inputs not in possible or outputs != expected:
            raise _refused(files.model, _FOREIGN, f"inputs and outputs {(possible[-1], expected)}", (inputs, outputs))
        return classifier

    def predict(self, texts: Texts) -> npt.NDArray[Any] | list[list[Any]]:
        """Return each text's label, (texts,): the most probable one, or by the threshold, see `predict_class`.

        Where the training data's labels were numbers or truth values, these are too. With a `min_confidence` it is an
        array of objects, None where the label's probability is below that: ask a person, or a larger model. Where a
        text may have any number of classes, return the list of each text's labels.
        """
        probabilities = self.answer(texts)[0]
        answers = predict_class(probabilities, self.threshold)
        if answers.ndim > 1:
            return named(answers, self._labels.tolist())
        labels: npt.NDArray[Any] = self._labels[answers]
        if self.min_confidence is not None:
            unsure = abstains(probabilities, answers, self.min_confidence)
            labels = np.array(named(answers, self._labels.tolist(), unsure), dtype=object)
        return labels

    def prediction_sets(self, texts: Texts, error: float = 0.1) -> list[list[Any]]:
        """Return of each text the labels that can't be ruled out, the most probable first; there may be none.

        Of texts like those of the validation split, the right label is missing from at most the share `error` of the
        sets: split conformal prediction, see `predict.abstention.ValidationAnswers.min_set_probability`.

        Raises:
            ArtifactError: The validation split is too small for this error, or is not known.
            ValueError: `error` is not between 0 and 1.
        """
        return prediction_sets(self.answer(texts)[0], self._labels.tolist(), self.min_set_probability(error))

    def min_set_probability(self, error: float) -> float:
        """Return the least probability of a class in the `prediction_sets` for this error."""
        return self._manifest.validated("the student").min_set_probability(error)

    def predict_proba(self, texts: Texts) -> npt.NDArray[np.float32]:
        """Return each class's probability at the student's temperature, (texts, classes), in `classes_`' order.

        `classes_` is sorted, as scikit-learn wants it; `label_names` has the order of `logits` and `answer`.
        """
        return self.answer(texts)[0][:, self._order]

    def logits(self, texts: Texts) -> npt.NDArray[np.float32]:
        """Return the network's scores before temperature and softmax, (texts, classes), in `label_names`' order.

        White space around a text makes no difference.

        Raises:
            TypeError: `texts` is a single text or a table, or holds anything but texts (of a student of pairs: pairs).
            ArtifactError: The student can't compute: it is damaged, or memory runs out.
        """
        return self._logits_marked(texts)[0]

    def answer(self, texts: Texts) -> tuple[npt.NDArray[np.float32], list[bool]]:
        """Return the classes' probabilities, (texts, classes), in `label_names`' order, and which texts were cut.

        A text is cut where it is longer than `max_length`.
        """
        logits, cut = self._logits_marked(texts)
        return probabilities_of(logits, self.temperature, self.threshold), cut

    def _logits_marked(self, texts: Texts) -> tuple[npt.NDArray[np.float32], list[bool]]:
        first, second = split_texts(texts, self.in_pairs)
        logits = np.empty((len(first), len(self.label_names)), dtype=np.float32)
        cut: list[bool] = []
        sizes = tokens.read_sizes(first, second, self._manifest.max_length)
        for part in tokens.portions(sizes, _TEXTS, _CHARACTERS):
            cut += self._compute(first[part], None if second is None else second[part], logits[part])
        return logits, cut

    def _compute(self, first: list[str], second: list[str] | None, logits: npt.NDArray[np.float32]) -> list[bool]:
        """Fill `logits`, (texts, classes), and return of each text whether it was cut."""
        padding, longest = self._manifest.spec["pad_token_id"], self._manifest.max_length
        items = zip(first, second or first, strict=True)
        cut = [max(map(len, item)) > longest * tokens.CHARACTERS_A_TOKEN for item in items]
        ids = ngrams = None
        lengths, room = np.zeros(len(first), np.int64), _TOKENS
        if session.reads_tokens(self._session):
            ids, cut = tokens.encode_marked(
                self._tokenizer, first, second, longest, empty_id=padding, long_texts=self._manifest.long_texts
            )
            lengths = np.array([len(sequence) for sequence in ids], np.int64)
        if self._ngram_buckets:
            ngrams = hash_ngrams(first, second, self._ngram_buckets, longest, self._manifest.long_texts)
            lengths, room = np.diff(ngrams.offsets), _NGRAMS  # many more than tokens
        # Texts of like length share a batch: padding, which is computed too, stays short.
        order = np.argsort(-lengths, kind="stable")
        while len(order):
            count = min(self._batch_size, max(1, room // max(1, int(lengths[order[0]]))))
            batch, order = order[:count], order[count:]
            sequences = None if ids is None else [ids[place] for place in batch]
            padded = None if ngrams is None else ngrams.padded(batch)
            logits[batch] = session.run(self._session, sequences, padding, padded)
        if not np.isfinite(logits).all():
            raise session.no_logits("NaN or infinity")
        return cut

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be pickled and copied: by what it was made from, since onnxruntime's session can't be."""
        model, *rest = self._parts
        return type(self)._rebuild, (model, self._tokenizer.to_str(), *rest)

    @classmethod
    def _rebuild(cls, model: bytes, tokenizer: str, *rest: Any) -> Classifier:
        return cls(model, Tokenizer.from_str(tokenizer), *rest)

    def __sklearn_clone__(self) -> Self:
        """Return itself to scikit-learn's `clone`: nothing of it is fitted there."""
        return self

    def __repr__(self) -> str:
        """Name its classes."""
        names = ", ".join(map(repr, self.label_names[:3])) + (", …" if len(self.label_names) > 3 else "")
        kind = "pairs of texts" if self.in_pairs else "texts"
        return f"<Classifier of {kind}, {len(self.label_names)} classes: {names[:100]}>"


def split_texts(texts: Texts, in_pairs: bool) -> tuple[list[str], list[str] | None]:
    """Check the input; return the texts and, when they are to come in pairs, the second texts.

    White space around them is cut off: a line of a file ends with some, and no training text does.
    """
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):  # they would be read as the names of their columns
        found = type(texts).__name__
        raise TypeError(f"expected a list of texts, found a {found}; give one of its columns, as in table['text']")
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"expected a list of texts, found {_describe(texts)}; put a single text in a list")
    items: list[Any] = list(texts)
    expected, count = ("a pair of texts (str, str)", 2) if in_pairs else ("a text (str)", 1)
    rows = [item if in_pairs and isinstance(item, tuple | list) else (item,) for item in items]
    for place, row in enumerate(rows):
        if len(row) != count or not all(isinstance(part, str) for part in row):
            raise TypeError(f"item {place}: expected {expected}, found {_describe(items[place])}")
    first = [row[0].strip() for row in rows]
    return first, [row[1].strip() for row in rows] if in_pairs else None


def _describe(value: object) -> str:
    return f"{type(value).__name__} {repr(value)[:40]}"


def _load_tokenizer(content: bytes, path: Path, vocab_size: int, max_length: int) -> Tokenizer:
    try:
        text = content.decode("utf-8")
        if not (problem := settings_problem(json.loads(text))):
            with tokens.explained_panics():  # it normalises the added tokens
                tokenizer = Tokenizer.from_str(text)
            problem = tokenizer_problem(tokenizer, vocab_size, max_length)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise _refused(path, "can't be read", "a tokenizer", error) from None
    if problem:
        raise _refused(path, _FOREIGN, *problem)
    return tokens.intern_tokenizer(tokenizer, max_length)


def _refused(path: Path, problem: str, expected: str, found: object) -> ArtifactError:
    return ArtifactError(
        f"{path} {problem}: expected {expected}, found {found}\n"
        "  what to do: restore the file, or save the student again"
    )
