"""Settings of the data."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from potstill.config.base import Settings
from potstill.predict.directory import LongTexts

STANDARD_INPUT: Final = "-"
MAX_LENGTH: Final = 4096
"""The longest texts that can be asked for. Attention takes memory with the square of the length."""


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse one class twice, and one without a name."""
    if len({name.strip().casefold() for name in names} - {""}) < len(names):
        raise ValueError("classes must have different names")
    return names


def one_or_several(source: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """A list of one is that one."""
    return source[0] if isinstance(source, tuple) and len(source) == 1 else source


class DataConfig(Settings):
    """Which labelled text to learn from, and how it is split."""

    source: Annotated[str | Annotated[tuple[str, ...], Field(min_length=1)], AfterValidator(one_or_several)] = "builtin"
    """Labelled texts: a file, several files (in YAML a list), a directory of files, `-` for standard input, a hub data
    set `owner/name[:configuration]`, `clinc150` (all domains, or some, as in `clinc150:home,meta`), `cola` or
    `builtin`. Files are CSV, TSV, JSON, JSONL, Parquet, XLSX or CoLA's own, also packed."""
    test: str | None = None
    """File with the test split. None: the `test` split of the directory or hub data set, else its `validation` split,
    else a tenth of the data."""
    validation: str | None = None
    """File with the validation split. None: the `validation` split of the directory or hub data set if it has a test
    split too, else a share of the training data."""
    text_column: str = "text"
    """Column with the text. (Potstill knows the columns of CoLA's files.)"""
    pair_column: str | None = None
    """Column with the second text, for tasks about pairs of texts. None: the task is about single texts."""
    label_column: str = "label"
    """Column with the label, any string or whole number, or with several labels: add `--label-separator` or
    `--multi-label`."""
    multi_label: bool = False
    """A text may have any number of labels, in lists in the label column. A `label_separator` or `label_columns` say so
    too. A text with an empty list, or cell, has none of the classes."""
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    """What is between the labels of a text that may have several, such as `;`. None: a text has one label, or a
    list."""
    label_columns: tuple[str, ...] = ()
    """Columns with 0 or 1, one for each class, in place of the label column: a text has the classes with 1."""
    classes: Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(_different)] | None = None
    """Classes of texts without labels, such as `good,bad` (in YAML a list): the teacher, a file or a server, gives all
    labels, those of the test split too, with `multi_label` any number to a text. The data has no column of labels then,
    or is a `.txt` file with one text a line. None: the data has labels."""
    positive_class: str | None = None
    """Class whose F1 is reported. None: the mean F1 of all classes (macro)."""
    skip_bad_rows: bool = False
    """Leave out rows that can't be read, count them, and list them in `FILE.bad-rows.jsonl` in the working directory.
    Off, since a row that can't be read is mostly a mistake to correct."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training data for the validation split, if the data has none. A tenth (855 sentences of CoLA) is
    enough to choose epochs and settings."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split. It is separate from the models' seeds, so that all models see the same split."""
    max_train_examples: Annotated[int, Field(ge=16)] | None = None
    """Use only this many examples for training and validation (stratified), for trials. None: all."""
    max_length: Annotated[int, Field(ge=4, le=MAX_LENGTH)] = 128
    """Cut texts to this many tokens. CoLA's longest sentence has fewer than 60. A saved teacher keeps the length that
    it was tuned with; one that `peft` wrote, whose length is not known, has this one if you set it, else 4,096."""

    long_texts: LongTexts = "head"
    """What is read of texts of more than `max_length` tokens: the first of them, or the first half and the last half of
    them. Pairs of texts are cut at their ends in any case. Saved models keep what they were trained with."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        """Refuse one column in two roles: a label read as text would be learnt at once."""
        columns = {name: getattr(self, name) for name in ("text_column", "pair_column", "label_column")}
        if self.label_columns:
            columns |= dict.fromkeys(("label_column",))
            columns |= {f"column {number} of label_columns": name for number, name in enumerate(self.label_columns, 1)}
        for (one, first), (other, second) in combinations(columns.items(), 2):
            if first == second is not None:
                raise ValueError(f"{one} and {other} must be different columns")
        if self.classes and (self.label_separator is not None or self.label_columns):
            raise ValueError(
                "classes is for texts without labels; leave it out, or label_separator and label_columns (multi_label "
                "says that several of the classes may apply to a text)"
            )
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """All that `source` names."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have any number of labels."""
        return self.multi_label or self.label_separator is not None or bool(self.label_columns)
