"""Settings of the data."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from potstill.config.base import Settings
from potstill.predict.directory import LongTexts

MAX_LENGTH: Final = 4096
"""The longest texts that can be asked for. Attention takes memory with the square of the length."""


class DataConfig(Settings):
    """Which labelled text to learn from, and how it is split."""

    source: str = "auto"
    """Labelled texts: a file, a directory of files, a hub data set `owner/name[:configuration]`, `clinc150` (all
    domains, or some, as in `clinc150:home,meta`), `cola`, `builtin` or `auto`. Files are CSV, TSV, JSON, JSONL,
    Parquet, XLSX or CoLA's own, also packed; `auto` is `cola` if this machine has its files, else `builtin`."""
    test: str | None = None
    """File with the test part. None: the `test` part of the directory or hub data set, else its `validation` part, else
    a tenth of the data."""
    validation: str | None = None
    """File with the validation part. None: the `validation` part of the directory or hub data set if it has a test part
    too, else a share of the training data."""
    text_column: str = "text"
    """Column with the text. (Potstill knows the columns of CoLA's files.)"""
    pair_column: str | None = None
    """Column with the second text, for tasks about pairs of texts. None: the task is about single texts."""
    label_column: str = "label"
    """Column with the label (any string or whole number)."""
    positive_class: str | None = None
    """Class whose F1 is reported. None: the mean F1 of all classes (macro)."""
    skip_bad_rows: bool = False
    """Leave out rows that can't be read, count them, and list them in `FILE.bad-rows.jsonl` in the working directory.
    Off, since a row that can't be read is mostly a mistake to correct."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training data for the validation part, if the data has none. A tenth (855 sentences of CoLA) is
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
        for (one, first), (other, second) in combinations(columns.items(), 2):
            if first == second:
                raise ValueError(f"{one} and {other} must be different columns")
        return self
