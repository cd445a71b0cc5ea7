"""The columns of labelled data: their names, and the error for those that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType

from potstill.config import DataConfig
from potstill.errors import DataError

Origin = Path | str
"""Where rows come from: a file's path, or the name of a hub data set, which a user can't edit in place."""

_LIKELY_NAMES = MappingProxyType(
    {
        "text": ("text", "sentence", "sentence1", "content", "review", "question", "query", "utterance", "message"),
        "pair": ("pair", "text2", "text_b", "sentence2", "question2", "hypothesis"),
        "label": ("label", "labels", "category", "class", "target", "intent", "sentiment", "topic"),
    }
)
"""Usual names of columns, most likely first."""


def named_columns(config: DataConfig) -> dict[str, str]:
    """Map each role, "text", "label" and where there is one "pair", to the name of its column."""
    named = {"text": config.text_column, "label": config.label_column}
    return named if config.pair_column is None else named | {"pair": config.pair_column}


def check_columns(found: Sequence[str], config: DataConfig, file: Origin, line: int | None = None) -> None:
    """Check that each column which the configuration names is there, once.

    Raises:
        DataError: With the columns that are there, the flags, and the columns that were probably meant.
    """
    missing, remedies = [], []
    for role, name in named_columns(config).items():
        if (count := found.count(name)) > 1:
            remedy = by_editing(file, "rename all but one")
            raise DataError(f"{count} columns are called {name!r}", file=file, line=line, remedy=remedy)
        if count == 0:
            missing.append(f"no column {name!r}")
            likely = next((c for like in _LIKELY_NAMES[role] for c in found if c.strip().lower() == like), None)
            remedies.append(
                f"name the {role} column, for instance with `--{role}-column {likely}`"
                if likely
                else f"name the {role} column with --{role}-column, or add the header if the file has none"
            )
    if missing:
        message = f"there is {' and '.join(missing)}; the columns are {listed(found)}"
        raise DataError(message, file=file, line=line, remedy="; ".join(remedies))


def by_editing(origin: Origin, edit: str) -> str:
    """Say where to make an edit: in the file, or in a copy of a hub data set."""
    return edit if isinstance(origin, Path) else f"save it as a Parquet file and give its path; in there, {edit}"


def listed(names: Iterable[str], at_most: int = 12) -> str:
    """List names in quotes, the first few of many."""
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - at_most} more" if len(quoted) > at_most else ""
    return ", ".join(quoted[:at_most]) + more
