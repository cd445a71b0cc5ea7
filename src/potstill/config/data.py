"""Settings of the data."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Self

from pydantic import Field, model_validator

from potstill.config.base import Settings


class DataConfig(Settings):
    """Which labelled text to learn from, and how it is split."""

    source: str = "auto"
    """Labelled texts: a file, a directory of files, a hub data set `owner/name[:configuration]`, `cola`, `builtin` or
    `auto`. Files are CSV, TSV, JSONL, Parquet or CoLA's own; `auto` is CoLA where it is found on this machine, else
    builtin."""
    test: str | None = None
    """File with the test part. Without it: the `test` part of the directory or hub data set, else its `validation`
    part, else a tenth of the data."""
    text_column: str = "text"
    """Column with the text. (CoLA's columns are known.)"""
    pair_column: str | None = None
    """Column with the second text, for classifiers of pairs of texts."""
    label_column: str = "label"
    """Column with the label (any string or whole number)."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training data that chooses epochs and settings, where the data has no validation part. A tenth is
    enough to rank them (855 sentences of CoLA)."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split. Apart from the models' seeds, so that all of them see the same split."""
    max_train_examples: Annotated[int, Field(ge=16)] | None = None
    """Use only this many training examples (stratified), for trials."""
    max_length: Annotated[int, Field(ge=4, le=4096)] = 128
    """Longer texts are cut to this many tokens. CoLA's longest sentence has under 60."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        """Refuse one column in two roles: a label read as text would be learnt at once."""
        columns = {name: getattr(self, name) for name in ("text_column", "pair_column", "label_column")}
        for (one, first), (other, second) in combinations(columns.items(), 2):
            if first == second:
                raise ValueError(f"{one} and {other} must be different columns")
        return self
