"""Data sets of the Hugging Face hub as rows, and whether it answers: it is asked only for names not on this disk."""

from __future__ import annotations

import functools
from typing import Any

from huggingface_hub import constants, get_session

from potstill.config import DataConfig
from potstill.data.columns import check_columns, named_columns
from potstill.data.labels import Row
from potstill.data.readers import parse_records

_TIMEOUT = 4.0
"""Seconds to wait for the hub's first answer."""


@functools.cache
def hub_answers() -> bool:
    """Ask the hub once whether it is there; the libraries would try for each file anew, half a minute long."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception:  # the HTTP library, and with it the error, differs between versions of huggingface_hub
        return False
    return True


def has_labels(part: Any, config: DataConfig) -> bool:
    """Tell whether a part of a hub data set is labelled; GLUE's test splits hold -1 throughout."""
    if config.is_multi_label:
        return {*(config.label_columns or [config.label_column])} <= {*part.column_names}
    return config.label_column in part.column_names and part.unique(config.label_column) != [-1]


def class_names(part: Any, config: DataConfig) -> list[str] | None:
    """Return the names for which the numbers of a label column stand, or those in its lists; None: it has none."""
    feature = None if config.label_columns else part.features[config.label_column]
    return getattr(getattr(feature, "feature", feature), "names", None)


def hub_rows(part: Any, config: DataConfig, file: str) -> list[Row]:
    """Read a part of a hub data set; numbers that stand for named classes become the names."""
    check_columns(part.column_names, config, file)
    part = part.select_columns(list(named_columns(config).values()))
    names = class_names(part, config)

    def named(record: dict[str, Any]) -> dict[str, Any]:
        if names is None or (label := record[config.label_column]) is None:
            return record
        if isinstance(label, list):
            return record | {config.label_column: [names[one] for one in label]}
        # -1 is the hub's sign for a label that is withheld.
        return record | {config.label_column: names[label] if label >= 0 else None}

    return parse_records(((row, named(record)) for row, record in enumerate(part, start=1)), config, file)
