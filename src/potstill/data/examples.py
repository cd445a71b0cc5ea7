"""Labelled texts, and a task's three parts of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from potstill.config import DataConfig
from potstill.data.encoded import UNLABELLED, Labels, unlabelled
from potstill.errors import ConfigError
from potstill.predict.directory import LabelType
from potstill.store.checksums import digest

__all__ = ["UNLABELLED", "Corpus", "Examples"]


@dataclass(frozen=True)
class Examples:
    """Texts with their labels, in a fixed order.

    Attributes:
        labels: Class index per text, int64, (texts,); where a text may have several classes, (texts, classes). See
            `data.encoded`; `UNLABELLED` without a label.
        pairs: The second texts of sentence pairs; None: texts are single.
    """

    texts: tuple[str, ...]
    labels: Labels
    pairs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check that all columns have the same length."""
        lengths = {len(self.texts), len(self.labels), len(self.pairs if self.pairs is not None else self.texts)}
        if len(lengths) != 1:
            raise ValueError(f"columns differ in length: {sorted(lengths)}")

    def __repr__(self) -> str:
        """Say what kind of examples these are, not what is in them."""
        return f"<Examples: {len(self):,} {'texts' if self.pairs is None else 'pairs of texts'}>"

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.texts)

    @property
    def all_texts(self) -> tuple[str, ...]:
        """First and second texts."""
        return (*self.texts, *(self.pairs or ()))

    @property
    def items(self) -> tuple[tuple[str, str | None], ...]:
        """Each text with its second one, None where texts are single."""
        seconds: Sequence[str | None] = self.pairs or (None,) * len(self)
        return tuple(zip(self.texts, seconds, strict=True))

    @property
    def content(self) -> Iterator[bytes | str]:
        """All content, for a digest."""
        yield str(len(self))
        yield from self.all_texts
        yield self.labels.tobytes()

    def joined(self, other: Examples) -> Examples:
        """Return these examples, then the other ones, which must be of the same kind: pairs, or single texts.

        Of the other ones, labels of another shape must be none: texts without a label are of no task.
        """
        pairs = None if self.pairs is None or other.pairs is None else self.pairs + other.pairs
        labels = other.labels
        if labels.ndim != self.labels.ndim and (labels == UNLABELLED).all():
            labels = unlabelled(len(other), self.labels)
        return Examples(self.texts + other.texts, np.concatenate([self.labels, labels]), pairs)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Examples:
        """Return the examples at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        pairs = None if self.pairs is None else tuple(self.pairs[i] for i in chosen)
        return Examples(tuple(self.texts[i] for i in chosen), self.labels[chosen], pairs)


def check_task(config: DataConfig, examples: Examples, name: str) -> None:
    """Refuse settings of texts with several labels where the texts come with one each, in the package.

    Raises:
        ConfigError: That is so.
    """
    if config.is_multi_label and examples.labels.ndim == 1:
        flags = "label_separator, label_columns and multi_label"
        raise ConfigError([f"data: the texts of {name} have one label each; leave out {flags}"])


@dataclass(frozen=True)
class Corpus:
    """A task: its classes and its three parts.

    Attributes:
        name: What to call the data in reports.
        source: Its origin (a directory, a hub name, "builtin").
        label_names: Name of each class; the position is the class index.
        test: Read once, for the report; `validation` chooses epochs and settings.
        label_type: Type of the labels in the data.
        positive: Index of the class whose F1 is reported; None: the mean of all.
        labels_by_teacher: Whether the data has no labels, and the teacher gives them; until then they are `UNLABELLED`.
    """

    name: str
    source: str
    label_names: tuple[str, ...]
    train: Examples
    validation: Examples
    test: Examples
    label_type: LabelType = "str"
    positive: int | None = None
    labels_by_teacher: bool = False

    @property
    def in_pairs(self) -> bool:
        """Whether what is classified are pairs of texts."""
        return self.train.pairs is not None

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have any number of classes, none too."""
        return self.train.labels.ndim > 1

    @property
    def everything(self) -> Examples:
        """The examples of all parts."""
        return self.train.joined(self.validation).joined(self.test)

    def key(self) -> str:
        """Return a digest of the classes and of all parts' texts and labels."""
        parts = (self.train, self.validation, self.test)
        return digest([*self.label_names, *(piece for part in parts for piece in part.content)])

    @property
    def num_classes(self) -> int:
        """Count the classes."""
        return len(self.label_names)

    def has_classes(self, names: tuple[str, ...]) -> bool:
        """Say whether a model's classes are these: by name, or by number where it has none (`peft` keeps no names)."""
        return names in (self.label_names, tuple(map(str, range(self.num_classes))))
