"""The classes of labelled rows: which spellings are one label, and which values are none."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from potstill.console import warn
from potstill.data.columns import Origin, by_editing, joined_labels, listed
from potstill.errors import ConfigError, DataError
from potstill.predict.directory import LabelType
from potstill.predict.files import inner_suffix

MISSING: Final = frozenset({"nan", "<na>", "#n/a", "null", "nat"})
"""How programs write a label that is missing, in lower case."""
_MAYBE_MISSING: Final = frozenset({"none", "na", "n/a", "-", "?"})
"""What may mean a missing label, or be a class."""
_UNTYPED: Final = (".csv", ".tsv", ".xlsx")
"""Formats in which 1 and "1" are the same."""
_MOST_DECIMALS: Final = 50
"""More different decimal numbers are no classes."""
_FEW_ROWS: Final = 20
"""In so few rows, each may have a number of its own."""
_SHOWN: Final = 10
"""Labels that a warning lists at most."""
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
"""The bound keeps identifiers of hundreds of digits, which int() refuses, among the strings."""
_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text, its labels still names, and the line that later complaints point at."""

    line: int
    text: str
    pair: str | None
    labels: tuple[str, ...]
    """One, or any number where a text may have several; none where the data is read without labels."""
    is_string: bool = True
    """Whether the file holds a label as a string, not as a number or truth value."""

    @property
    def key(self) -> frozenset[str]:
        """What is equal for texts with the same labels."""
        return frozenset(map(label_key, self.labels))


def label_key(label: str) -> str:
    """Return a key that is equal for labels that look the same.

    These may differ in white space, in Unicode's composition, in characters that can't be seen, and as 1 and 1.0.
    """
    composed = unicodedata.normalize("NFC", label)
    key = " ".join("".join(c for c in composed if unicodedata.category(c) != "Cf").split())
    return re.sub(r"^(-?[0-9]{1,18})\.0+$", r"\1", key)


def label_names_of(rows: Iterable[Row], file: Origin) -> tuple[str, ...]:
    """List the classes of training data: in numerical order if all are whole numbers, else alphabetically.

    Labels that look the same are one class, which has the most frequent spelling; a warning says so. Whole numbers that
    are not all written as 1.0 are written as 1.

    Raises:
        DataError: There is one class only, or the labels are continuous numbers.
    """
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for label in row.labels:
            spellings[label_key(label)][label] += 1
    if len(spellings) < 2:
        only = next((repr(min(counts)) for counts in spellings.values()), None)
        raise DataError(
            "no row has a label" if only is None else f"all rows have the label {only}",
            file=file,
            remedy="training needs two or more classes: name another --label-column, or "
            + by_editing(file, "add rows of another"),
        )
    _check_discrete(spellings, file)
    _warn_of_spellings(spellings, file)
    names = {key: min(counts, key=lambda name: (-counts[name], name)) for key, counts in spellings.items()}
    if all(map(_WHOLE.fullmatch, names)):
        ordered = sorted(names, key=lambda key: (int(key), key))
        return tuple(ordered if any(key == name for key, name in names.items()) else (names[key] for key in ordered))
    return tuple(sorted(names.values()))


def positive_index(name: str | None, label_names: Sequence[str]) -> int | None:
    """Return the index of the class whose F1 is wanted, None where none is.

    Raises:
        ConfigError: There is no such class.
    """
    if name is None:
        return None
    keys = [label_key(one) for one in label_names]
    if (key := label_key(name)) not in keys:
        raise ConfigError([f"data.positive_class: there is no class {name!r}; the classes are {listed(label_names)}"])
    return keys.index(key)


def label_type_of(rows: Iterable[Row], names: Sequence[str], file: Origin) -> LabelType:
    """Say of what type a user's own labels are, so that answers can be compared with them.

    CSV and TSV don't tell: there, as for pandas, what looks like a number is one.
    """
    is_typed = not isinstance(file, Path) or inner_suffix(file) not in _UNTYPED
    if is_typed and any(row.is_string for row in rows):
        return "str"
    if len(names) == 2 and {name.lower() for name in names} == {"true", "false"}:
        return "bool"
    with suppress(ValueError):
        if all(_WHOLE.fullmatch(name) and str(int(name)) == name for name in names):
            return "int"
        if all(str(float(name)) == name for name in names):
            return "float"
    return "str"


def _check_discrete(spellings: dict[str, Counter[str]], file: Origin) -> None:
    """Refuse numbers that measure something: almost every text would be a class."""
    rows = sum(map(Counter.total, spellings.values()))
    if not all(map(_DECIMAL.fullmatch, spellings)):
        return
    has_decimals = any("." in key or "e" in key.lower() for key in spellings)
    if 2 * len(spellings) > rows > _FEW_ROWS or (has_decimals and len(spellings) > _MOST_DECIMALS):
        raise DataError(
            f"the labels are {len(spellings):,} different numbers in {rows:,} rows, such as {min(spellings)}: they "
            "look like a measure, not like classes",
            file=file,
            remedy="name another --label-column, or turn the numbers into classes, such as low, medium and high",
        )


def _warn_of_spellings(spellings: dict[str, Counter[str]], file: Origin) -> None:
    """Warn of labels that were made one, and of those that may be one or none."""
    for counts in spellings.values():
        if len(counts) > 1:
            warn(f"{file}: these labels look the same and are one class: {_counted(counts)}")
    alike: dict[str, Counter[str]] = defaultdict(Counter)
    for key, counts in spellings.items():
        alike[key.casefold()][key] = counts.total()
    for folded, counts in alike.items():
        if len(counts) > 1:
            warn(f"{file}: these classes differ only in case; if they are one, write them alike: {_counted(counts)}")
        if folded in _MAYBE_MISSING:
            warn(f"{file}: if this means that the label is missing, remove these rows: {_counted(counts)}")

    joined, separator = joined_labels(spellings)
    if separator is not None:
        counts = Counter({key: spellings[key].total() for key in joined})
        warn(
            f"{file}: each of these is learnt as a class of its own, and looks like several labels of one text: "
            f"{_counted(counts)}; if they are, add `--label-separator {shlex.quote(separator)}`, so that a text may "
            "have any number of classes, or keep one label of each text"
        )


def _counted(counts: Counter[str]) -> str:
    """List labels with their numbers, invisible characters as escapes."""
    shown = ", ".join(f"{_visible(name)} ({count:,})" for name, count in counts.most_common(_SHOWN))
    return shown + (f" and {len(counts) - _SHOWN:,} more" if len(counts) > _SHOWN else "")


def _visible(name: str) -> str:
    """Quote a name; characters that can't be seen or told apart are escaped."""
    plain = "".join(c if c == " " or unicodedata.category(c)[0] not in "CMZ" else f"\\u{ord(c):04x}" for c in name)
    return f"'{plain}'"
