"""A whole run as a scikit-learn estimator: `fit` on texts and labels, then predict."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from potstill.config import PotstillConfig
from potstill.console import silence
from potstill.experiment.run import run
from potstill.export.bundle import export_student
from potstill.predict import Classifier
from potstill.predict.classifier import split_texts
from potstill.predict.decision import named
from potstill.predict.directory import REPORT_FILE, find_student
from potstill.store.atomic import write_directory_atomically


class PotstillClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What `potstill run` does, as a scikit-learn classifier of texts.

    Of texts that may have any number of labels, `y` is a list of lists or sets of labels, or an indicator matrix.

        classifier = PotstillClassifier(preset="fast").fit(texts, labels)
        classifier.predict(["Where is my card?"])
        print(classifier.report_)

    Of the texts given to `fit`, a tenth is kept for the scores in the report, and a share of the rest
    (`data.validation_fraction`) chooses the epoch; the student learns from the others.

    Args:
        preset: What `potstill run --preset` takes.
        settings: More settings, nested as in a file for `--config`, such as `{"student": {"seeds": [0]}}`.
        directory: Where to keep the run, with all models, plots and the report; new or empty. None: it is not kept. Its
            texts are not kept, so that the command in the report can't repeat it.
        verbose: Whether to print progress to standard error.

    Attributes:
        classes_: The labels, sorted: strings, integers or truth values as in `y`; whole floats are integers here.
        model_: The student, a `potstill.Classifier`, which needs no torch.
        report_: The report, in Markdown.
    """

    def __init__(
        self,
        preset: str = "balanced",
        settings: Mapping[str, Any] | None = None,
        directory: Path | str | None = None,
        *,
        verbose: bool = True,
    ) -> None:
        self.preset, self.settings, self.directory, self.verbose = preset, settings, directory, verbose

    def fit(self, X: Any, y: Iterable[Any]) -> Self:  # noqa: N803 (scikit-learn's name)
        """Train teacher, students and baselines, and keep the student that `potstill predict` would take.

        Args:
            X: Texts, or pairs of texts: a list, an array or a column, (texts,), or a table with one column.
            y: Their labels, (texts,): strings, whole numbers or truth values. A list, tuple or set of these for each
                text, or 0 and 1, (texts, classes), where a text may have any number of labels; the classes of such a
                matrix are the names or numbers of its columns.

        Raises:
            PotstillError: Texts, labels or settings can't be used.
            TypeError: `X` is a single text or a table with several columns, or holds anything but texts.
            ValueError: `X` and `y` differ in length, or a text or label is missing or of another type.
        """
        items = _one_column(X)
        in_pairs = isinstance(items, list) and bool(items) and isinstance(items[0], tuple | list)
        first, second = split_texts(items, in_pairs)
        labels, several = _labels(y)
        check_consistent_length(first, labels)
        if missing := [place for place, one in enumerate(labels) if one is None or one != one]:
            raise ValueError(f"y[{missing[0]}] is missing; leave such texts out")
        if empty := [place for place, one in enumerate(first) if not one]:
            raise ValueError(f"X[{empty[0]}] is an empty text; leave such texts out")
        try:
            table = pa.table({"text": first, "label": labels} | ({} if second is None else {"pair": second}))
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise ValueError(
                f"expected texts, and labels that are all strings, all whole numbers or all truth values; {error}"
            ) from None
        with tempfile.TemporaryDirectory() as temporary, nullcontext() if self.verbose else silence():
            file = Path(temporary) / "texts.parquet"
            pq.write_table(table, file)
            settings = dict(self.settings or {})
            data = {"source": str(file), "pair_column": "pair" if in_pairs else None, "multi_label": several}
            settings = {"preset": self.preset} | settings | {"data": (settings.get("data") or {}) | data}
            out = Path(temporary) / "run" if self.directory is None else Path(self.directory)
            config = PotstillConfig.build(settings, "the settings")
            _, directory = run(config, out, text_alone=self.directory is None)  # plots would be removed with the run
            exported = Path(temporary) / "exported"
            export_student(find_student(directory), exported, "onnx")
            self.report_ = (directory / REPORT_FILE).read_text(encoding="utf-8")
            return self._take(exported)

    def _take(self, exported: Path) -> Self:
        self.model_ = Classifier.load(exported)
        self._files = {file.name: file.read_bytes() for file in exported.iterdir()}
        self.classes_: NDArray[Any] = self.model_.classes_
        return self

    def predict(self, X: Any) -> NDArray[Any] | list[list[Any]]:  # noqa: N803
        """Return each text's label, (texts,), or the list of its labels where it may have any number of them."""
        check_is_fitted(self)
        return self.model_.predict(_one_column(X))

    def predict_proba(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return each class's probability, (texts, classes), in the order of `classes_`."""
        check_is_fitted(self)
        return self.model_.predict_proba(_one_column(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """Return the accuracy: the share of texts of which the label is right, or all labels and no other.

        Args:
            X: As for `fit`.
            y: Their labels, as for `fit`.
            sample_weight: Weight of each text, (texts,); None: all the same.
        """
        labels, several = _labels(y)
        given = self.predict(X)
        is_right = [set(one) == set(other) for one, other in zip(labels, given, strict=True)] if several else given == y
        return float(np.average(is_right, weights=sample_weight))

    def save(self, directory: Path | str) -> None:
        """Write the student as `potstill export` does: for `potstill predict`, `serve` and `Classifier.load`.

        Raises:
            ArtifactError: `directory` holds something.
        """
        check_is_fitted(self)

        def fill(new: Path) -> None:
            for name, content in self._files.items():
                (new / name).write_bytes(content)

        write_directory_atomically(Path(directory), fill)

    @classmethod
    def load(cls, directory: Path | str) -> Self:
        """Open what `save` or `potstill export` wrote; it has no `report_`. `Classifier.load` needs no torch.

        Raises:
            ArtifactError: It is missing or damaged.
        """
        return cls()._take(Path(directory))

    def __sklearn_tags__(self) -> Any:
        """Say that it takes texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False, True
        return tags


def _labels(y: Any) -> tuple[list[Any], bool]:
    """Return the labels of each text, and whether it may have any number of them: then they are lists."""
    if getattr(y, "ndim", 1) == 2 and y.shape[1] > 1:
        rows = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
        if not np.isin(rows, (0, 1)).all():
            raise ValueError("expected a matrix of 0 and 1 as y, found other values")
        return named(rows.astype(np.int8), list(getattr(y, "columns", range(rows.shape[1])))), True
    labels = np.asarray(y).ravel().tolist() if hasattr(y, "__array__") else list(y)
    is_list = [isinstance(one, list | tuple | set | frozenset | np.ndarray) for one in labels]
    if any(is_list):
        if not all(is_list):
            place = is_list.index(False)
            raise ValueError(f"y[{place}]: expected a list of labels, as others are, found {labels[place]!r}")
        return [sorted(one) if isinstance(one, set | frozenset) else list(one) for one in labels], True
    return labels, False


def _one_column(texts: Any) -> Any:
    """Return the only column of a table as a list, other collections as a list, and anything else as it is."""
    if hasattr(texts, "columns"):
        return list(texts[texts.columns[0]]) if len(texts.columns) == 1 else texts
    if isinstance(texts, np.ndarray) and texts.ndim == 2:
        return texts[:, 0].tolist() if texts.shape[1] == 1 else texts.tolist()
    return texts if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable) else list(texts)
