"""A file of probabilities as a teacher: the answers of another model, of a vendor's service, or of people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from potstill.config import DataConfig, FileConfig, PotstillConfig, TeacherConfig
from potstill.console import warn
from potstill.data import Corpus, Examples
from potstill.data.columns import listed
from potstill.data.formats import SUFFIXES, read_records
from potstill.data.labels import label_key
from potstill.data.readers import several_labels
from potstill.errors import DataError
from potstill.predict.files import inner_suffix
from potstill.store.checksums import digest
from potstill.teacher.untuned import LEAST, UntunedTeacher, log_odds
from potstill.training.base import FitResult

Item = tuple[str, str | None]
_SLACK = 0.02
"""How far from 1 the sum of rounded probabilities may be."""
_SHOWN = 6
"""Numbers of a row that a message shows."""
_OURS = "probability"
"""What `potstill predict` calls the columns of its answers: this, or this with the class."""
_NO_NUMBERS = "give every text one probability of each class, between 0 and 1, which add up to 1"


class FileTeacher(UntunedTeacher):
    """Answers what a file answers, and has no answer to any other text."""

    settings: ClassVar[type[TeacherConfig]] = FileConfig
    config: FileConfig

    def __init__(self, settings: FileConfig, data: DataConfig, label_names: tuple[str, ...]) -> None:
        """Read the file.

        Args:
            settings: Which file, and what it holds.
            data: Names the columns of texts and labels.
            label_names: The classes.

        Raises:
            DataError: The file can't be read, lacks columns, or holds what are no probabilities.
        """
        self.config, self.label_names, self.in_pairs = settings, label_names, data.pair_column is not None
        self.backbone = self.tokenizer_name = settings.backbone
        self.threshold = (0.5,) * len(label_names) if data.is_multi_label else None
        path, text = Path(settings.file), [data.text_column, *([data.pair_column] if data.pair_column else [])]
        table = _read(path, data)
        certain = settings.confidence_column if settings.confidence_column in table else _OURS
        place_of = _places_of(label_names)
        classes = {place_of(name.removeprefix(f"{_OURS}_")): name for name in table if name not in (*text, certain)}
        lacking = [name for place, name in enumerate(label_names) if place not in classes]
        if not lacking:
            ordered = (classes[place] for place in range(len(label_names)))
            numbers = np.array([_numbers(path, name, table[name]) for name in ordered])
            rows = (_log_odds if data.is_multi_label else _log_probabilities)(path, numbers.T, settings.values)
        elif certain in table and data.label_column in table:
            from_labels = self._from_lists if data.is_multi_label else self._from_labels
            rows = from_labels(path, data, table[data.label_column], certain, table[certain])
        else:
            raise _error(
                path,
                f"there is no column for {listed(lacking)}, and no columns {data.label_column!r} and "
                f"{settings.confidence_column!r}; the columns are {listed(table)}",
            )
        columns_of_text = [[str(value or "").strip() for value in table[name]] for name in text]
        seconds: list[str] | list[None] = columns_of_text[1] if self.in_pairs else [None] * len(columns_of_text[0])
        items: list[Item] = list(zip(columns_of_text[0], seconds, strict=True))
        self._places: dict[Item, int] = {item: place for place, item in enumerate(dict.fromkeys(items))}
        places = np.array([self._places[item] for item in items], dtype=np.int64)
        if data.is_multi_label:
            self._rows = self._together(rows, places, is_mean=not lacking)
        else:
            self._rows = self._averaged(rows, places)
        self._key = digest(
            [*label_names, *(part or "" for item in self._places for part in item), self._rows.tobytes()]
        )

    def _from_labels(
        self, path: Path, _: DataConfig, labels: list[Any], column: str, values: list[Any]
    ) -> NDArray[np.float32]:
        """Make log-probabilities of labels and how certain each is, (rows, classes); NaN where it is too uncertain."""
        place_of = _places_of(self.label_names)
        places = np.array([place_of(label) for label in labels])
        if unknown := sorted({str(label) for label, place in zip(labels, places, strict=True) if place < 0}):
            classes = f"expected the classes {listed(self.label_names)}, found {listed(unknown)}"
            raise _error(path, classes, "correct the labels, or leave these rows out")
        certain = _shares(path, column, values)
        if low := int((certain < 1 / len(self.label_names)).sum()):
            warn(f"{path}: {low:,} labels are less certain than any other class would be; they count as other answers")
        others = (1 - certain) / (len(self.label_names) - 1)
        numbers = np.repeat(others[:, None], len(self.label_names), axis=1)
        numbers[np.arange(len(places)), places] = certain
        rows = _log_probabilities(path, numbers, "probabilities")
        rows[certain < self.config.min_confidence] = np.nan
        return rows

    def _from_lists(
        self, path: Path, data: DataConfig, labels: list[Any], column: str, values: list[Any]
    ) -> NDArray[np.float32]:
        """Make log-odds of the labels in each row and how certain each, or all of them, are, (rows, classes).

        A class that no row of a text names has a probability of 0.
        """
        place_of = _places_of(self.label_names)
        rows = [several_labels(value, data, path, number) for number, value in enumerate(labels, start=1)]
        given = [_listed_values(value, data.label_separator) for value in values]
        numbers = np.zeros((len(rows), len(self.label_names)))
        for number, (names, certain) in enumerate(zip(rows, given, strict=True)):
            if len(certain) not in (1, len(names)) and names:
                found = f"row {number + 1:,} has {len(names)} labels, and {len(certain)} values in {column!r}"
                raise _error(path, found, "give one for each label, or one for all")
            if unknown := [name for name in names if place_of(name) < 0]:
                classes = f"expected the classes {listed(self.label_names)}, found {listed(unknown)}"
                raise _error(path, classes, "correct the labels, or leave these rows out")
            if names:
                numbers[number, [place_of(name) for name in names]] = _shares(path, column, certain)
        return _log_odds(path, numbers, "probabilities")

    def _together(self, rows: NDArray[np.float32], places: NDArray[np.int64], *, is_mean: bool) -> NDArray[np.float32]:
        """Make one row of those of each text, (texts, classes): their mean probabilities, or the largest of each."""
        shares = np.zeros((len(self._places), rows.shape[1]))
        (np.add if is_mean else np.maximum).at(shares, places, expit(rows.astype(np.float64)))
        if is_mean:
            shares /= np.bincount(places, minlength=len(shares))[:, None]
        return self.confident(log_odds(shares))

    def _averaged(self, rows: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Average the rows of each text, and replace answers that are too uncertain by NaN, (texts, classes)."""
        if len(self._places) < len(rows):
            sums, given = np.zeros((len(self._places), rows.shape[1])), np.isfinite(rows[:, 0])
            np.add.at(sums, places[given], softmax(rows[given], axis=1))
            totals = sums.sum(axis=1, keepdims=True)
            shares = np.divide(sums, totals, out=np.full_like(sums, np.nan), where=totals > 0)
            rows = np.log(np.maximum(shares, LEAST)).astype(np.float32)
        return self.confident(rows)

    @property
    def key(self) -> str:
        """A digest of the texts and their answers."""
        return self._key

    def logits(
        self, examples: Examples, *, cached: bool = True, on_batch: Callable[[int], object] = lambda _: None
    ) -> NDArray[np.float32]:
        """Return the logarithms of the probabilities, (texts, classes); NaN where the file has no answer."""
        places = [self._places.get((first.strip(), second and second.strip()), -1) for first, second in examples.items]
        none = np.full((1, len(self.label_names)), np.nan, np.float32)
        on_batch(len(examples))
        answers: NDArray[np.float32] = np.concatenate([self._rows, none])[places]
        return answers

    def describe(self) -> str:
        """Say which file it is, and what it answers."""
        return f"{self.config.describe()} ({self.coverage or f'{len(self._places):,} texts'})"

    def bytes_on_disk(self, directory: Path) -> int:
        """Return the size of the file."""
        return Path(self.config.file).stat().st_size

    @classmethod
    def obtain(
        cls, config: PotstillConfig, corpus: Corpus, directory: Path, seed: int
    ) -> tuple[Self, FitResult | None]:
        """Read the file, and say how many of the corpus's texts it answers."""
        assert isinstance(config.teacher, FileConfig)
        teacher = cls(config.teacher, config.data, corpus.label_names)
        if not teacher.survey(corpus):
            warn(f"{config.teacher.file} answers no training text; texts have to be the same to the letter")
        return teacher, None

    @classmethod
    def check(cls, settings: Any) -> None:
        """Refuse what is no file."""
        path = Path(settings.file)
        if path.is_dir():
            remedy = "name a file of probabilities; `potstill distill --teacher DIR` takes a tuned teacher"
            raise _error(path, "expected a file, found a directory", remedy)
        if not path.is_file():
            raise _error(path, "there is no such file", "check the path")


def _places_of(label_names: tuple[str, ...]) -> Callable[[Any], int]:
    """Return what finds a label's class by its name, in any case if that is unique; -1 where there is none."""
    exact = {label_key(name): place for place, name in enumerate(label_names)}
    folded = {key.casefold(): place for key, place in exact.items()}

    def place_of(label: Any) -> int:
        key = label_key(str(label))
        return exact.get(key, folded.get(key.casefold(), -1) if len(folded) == len(exact) else -1)

    return place_of


def _read(path: Path, data: DataConfig) -> dict[str, list[Any]]:
    """Read a table's columns, as labelled data is read; it need not have one of labels.

    Raises:
        DataError: The file or a row can't be read, or a column of texts is missing.
    """
    if (suffix := inner_suffix(path)) not in SUFFIXES:
        raise _error(path, f"expected a .csv, .tsv, .jsonl or .parquet file, found the suffix {suffix!r}")
    rows: list[Mapping[str, object]] = []
    without_labels = data.model_copy(update={"label_column": None})
    for _, record in read_records(path, without_labels, every_column=True):
        if isinstance(record, DataError):
            raise record
        rows.append(record)
    if not rows:
        raise _error(path, "there are no rows")
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain.from_iterable(rows))}


def _numbers(path: Path, column: str, values: list[Any]) -> NDArray[np.float64]:
    """Return a column of finite numbers, (rows,)."""
    try:
        numbers = np.array([np.nan if value == "" else value for value in values], dtype=np.float64)
    except (TypeError, ValueError):
        raise _error(path, f"column {column!r} holds values that are no numbers") from None
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers))[0]) + 1
        raise _error(path, f"column {column!r} holds no number in row {row:,}")
    return numbers


def _shares(path: Path, column: str, values: list[Any]) -> NDArray[np.float64]:
    """Return a column of numbers between 0 and 1, (rows,)."""
    shares = _numbers(path, column, values)
    if not (shares.min() >= 0 and shares.max() <= 1):
        raise _error(
            path,
            f"column {column!r} holds values that are not between 0 and 1",
            "divide percentages by 100; how certain a label is has to be its probability",
        )
    return shares


def _listed_values(value: Any, separator: str | None) -> list[Any]:
    """Return the values in a list, or between separators, or the only one."""
    if isinstance(value, str) and value.strip().startswith("["):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, str) and separator is not None:
        value = value.split(separator)
    return value if isinstance(value, list) else [value]


def _log_odds(path: Path, numbers: NDArray[np.float64], kind: str) -> NDArray[np.float32]:
    """Check the probability of each class by itself, (rows, classes), and return the logits of their sigmoids."""
    if kind == "logits":
        return numbers.astype(np.float32)
    wrong = np.asarray(((numbers < 0) | (numbers > 1)).any(axis=1))
    _refuse_wrong(path, numbers, wrong, "give every text the probability of each class by itself, between 0 and 1")
    return log_odds(numbers)


def _log_probabilities(path: Path, numbers: NDArray[np.float64], kind: str) -> NDArray[np.float32]:
    """Check a file's numbers, (rows, classes), and return logits: logarithms of probabilities, or the logits given."""
    if kind == "logits":
        return numbers.astype(np.float32)
    wrong = (numbers < 0).any(axis=1) | (np.abs(numbers.sum(axis=1) - 1) > _SLACK)
    _refuse_wrong(path, numbers, wrong, _NO_NUMBERS)
    return np.log(np.maximum(numbers, LEAST)).astype(np.float32)


def _refuse_wrong(path: Path, numbers: NDArray[np.float64], wrong: NDArray[np.bool_], remedy: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = ", ".join(f"{number:g}" for number in numbers[row, :_SHOWN])
        raise _error(
            path,
            f"{int(wrong.sum()):,} rows hold no probabilities, the first in row {row + 1:,}: {found}",
            f"{remedy}; if these are logits, say so in a file of settings: teacher.values: logits",
        )


def _error(path: Path, problem: str, remedy: str = _NO_NUMBERS) -> DataError:
    return DataError(problem, file=path, remedy=remedy)
