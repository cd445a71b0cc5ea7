"""The columns of labelled data: their names, and the error for those that are missing."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

from potstill.config import DataConfig
from potstill.errors import DataError, MissingColumnError

_CLASS = "label "
"""Roles of columns of one class each begin with it."""
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
SUGGESTION_ROWS = 200
"""Rows that show what a column holds."""
_JOIN: Final = re.compile(r"\s*([,;|+&])\s*")
"""What people write between several labels of one text."""
_FEWEST_LABELS, _LABEL_WORDS, _TEXT_WORDS = 2, 3, 3
"""Labels occur so often on average, and have at most so many words; texts have more, or as many."""


def named_columns(config: DataConfig) -> dict[str, str]:
    """Map each role, "text", "label" and "pair", to the name of its column; those without a column are left out.

    Columns of one class each have the roles "label 0", "label 1" and so on.
    """
    label = None if config.classes or config.label_columns else config.label_column
    named = {"text": config.text_column, "label": label, "pair": config.pair_column}
    named |= {f"{_CLASS}{number}": name for number, name in enumerate(config.label_columns)}
    return {role: name for role, name in named.items() if name is not None}


def joined_labels(labels: Collection[str]) -> tuple[list[str], str | None]:
    """Find labels that look like several: a part is a label too, or all parts are in others of them.

    Returns:
        These labels, and what is between the parts of most.
    """
    parts = {label: set(filter(None, _JOIN.sub("\n", label).split("\n"))) for label in labels if _JOIN.search(label)}
    often = Counter(part for found in parts.values() if len(found) > 1 for part in found)
    joined = [
        label
        for label, found in parts.items()
        if len(found) > 1 and (not found.isdisjoint(labels) or all(often[part] > 1 for part in found))
    ]
    signs = Counter(sign for label in joined for sign in _JOIN.findall(label))
    return joined, signs.most_common(1)[0][0] if signs else None


def check_columns(
    found: Sequence[str],
    config: DataConfig,
    file: Origin,
    line: int | None = None,
    *,
    rows: Iterable[Mapping[str, object]] = (),
) -> None:
    """Check that each column which the configuration names is there, once.

    The first of the `rows` tell what the others hold.

    Raises:
        DataError: With the columns that are there, the flags, and the columns that were probably meant.
    """
    if config.classes and config.label_column in found:
        remedy = "leave --classes out, to learn from them; or rename the column, to let the teacher give all labels"
        problem = f"--classes is for texts without labels, and there is a column {config.label_column!r}"
        raise DataError(problem, file=file, line=line, remedy=remedy)
    missing = []
    for role, name in named_columns(config).items():
        if (count := found.count(name)) > 1:
            remedy = by_editing(file, "rename all but one")
            raise DataError(f"{count} columns are called {name!r}", file=file, line=line, remedy=remedy)
        if count == 0:
            missing.append((role, name))
    if not missing:
        return
    classes = [name for role, name in missing if role.startswith(_CLASS)]
    if classes:
        message = f"there is no column {listed(classes)}; the columns are {listed(found)}"
        remedy = "name the columns of the classes with --label-columns"
        raise MissingColumnError(message, file=file, line=line, remedy=remedy)
    free = [column for column in found if column not in named_columns(config).values()]
    likely = {role: _usual(role, free) for role, _ in missing}
    sample = list(islice(rows, SUGGESTION_ROWS))
    if None in likely.values():
        taken = {*likely.values(), *named_columns(config).values()}
        contents = {column: [row.get(column) for row in sample] for column in free if column not in taken}
        if any(column in values for column, values in contents.items()):  # the first line is a row, no header
            contents = {}
        likely |= {role: _like(role, contents) for role, column in likely.items() if column is None}
    flags = [f"--{role}-column {shlex.quote(column)}" for role, column in likely.items() if column]
    flags += _several(sample, likely.get("label"), config)
    remedies = [f"if these are the columns that you mean, add `{' '.join(flags)}` to the command"] if flags else []
    remedies += [
        f"name the {role} column with --{role}-column, or add the header if the file has none"
        for role, column in likely.items()
        if column is None
    ]
    message = f"there is {' and '.join(f'no column {name!r}' for _, name in missing)}; the columns are {listed(found)}"
    raise MissingColumnError(message, file=file, line=line, remedy="; ".join(remedies))


def _several(rows: Sequence[Mapping[str, object]], column: str | None, config: DataConfig) -> list[str]:
    """Return the flag for a column that holds several labels of a text, unless the configuration says so."""
    values = [] if column is None or config.is_multi_label else [row.get(column) for row in rows]
    if any(isinstance(value, list) and len(value) > 1 for value in values):
        return ["--multi-label"]
    _, separator = joined_labels({value for value in values if isinstance(value, str)})
    return [] if separator is None else [f"--label-separator {shlex.quote(separator)}"]


def _usual(role: str, columns: Sequence[str]) -> str | None:
    return next((c for like in _LIKELY_NAMES[role] for c in columns if c.strip().lower() == like), None)


def _like(role: str, contents: Mapping[str, Sequence[object]]) -> str | None:
    """Return the only column that holds texts, or the only one that holds labels; None if there is none or several."""
    found = []
    for column, values in contents.items():
        texts = [str(value).strip() for value in values if value not in (None, "")]
        words = sum(len(text.split()) for text in texts) / max(len(texts), 1)
        repeats = len(texts) >= _FEWEST_LABELS * len(set(texts))
        if (len(set(texts)) > 1 and repeats and words <= _LABEL_WORDS) if role == "label" else words >= _TEXT_WORDS:
            found.append(column)
    return found[0] if len(found) == 1 else None


def by_editing(origin: Origin, edit: str) -> str:
    """Say where to make an edit: in the file, or in a copy of a hub data set."""
    return edit if isinstance(origin, Path) else f"save it as a Parquet file and give its path; in there, {edit}"


def listed(names: Iterable[str], at_most: int = 12) -> str:
    """List names in quotes, the first few of many."""
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - at_most} more" if len(quoted) > at_most else ""
    return ", ".join(quoted[:at_most]) + more
