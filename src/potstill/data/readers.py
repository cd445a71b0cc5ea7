"""Labelled text in, checked rows out, or a refusal that names the file, the lines and what to do about it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import numpy as np

from potstill.config import DataConfig
from potstill.console import print_line, warn
from potstill.data.columns import Origin, by_editing, check_columns, joined_labels, listed, named_columns
from potstill.data.encoded import UNLABELLED, Labels
from potstill.data.examples import Examples
from potstill.data.formats import Record, name_fields, read_content, read_records, split_tsv
from potstill.data.labels import MISSING, Row, label_key
from potstill.data.parts import BAD_ROWS
from potstill.errors import ArtifactError, DataError, MissingColumnError
from potstill.store.atomic import write_text

COLA_LABELS = ("unacceptable", "acceptable")
"""What CoLA's labels 0 and 1 mean."""
COLA_TRAIN, COLA_EVALUATION = "in_domain_train.tsv", "in_domain_dev.tsv"
COLA_FILES = frozenset({COLA_TRAIN, COLA_EVALUATION, "out_of_domain_dev.tsv"})
"""CoLA's own files: four tab-separated columns, no header, no quoting, labels 0 and 1."""
COLA_COLUMNS = MappingProxyType(
    {"text_column": "sentence", "pair_column": None, "label_column": "label", "label_columns": ()}
)
"""The columns of CoLA, its own files' and the hub's, whatever columns the configuration names for other files."""

_SHOWN_FILES = 20
"""Files of which the rows are counted in a line."""
_SHOWN_PROBLEMS = 10
"""Bad rows that an error lists."""
_SHOWN_CHARACTERS = 100
"""Characters of a value that an error repeats."""
_QUOTED = re.compile("'[^']*'|\"[^\"]*\"")
_LIST = re.compile(rf"\s*\[\s*(?:{_QUOTED.pattern})(?:[\s,]+(?:{_QUOTED.pattern}))*\s*\]\s*")
"""A list of strings, as Python, numpy and JSON write it into a CSV file."""
_NO_LIST = re.compile(r"\s*(\[\s*\])?\s*")
"""How a text without any label is written there."""
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")
"""What a column of one class holds, in lower case."""

_refusals: ContextVar[list[DataError] | None] = ContextVar("refusals", default=None)


@contextmanager
def bad_rows_collected() -> Iterator[list[DataError]]:
    """Leave out rows that can't be read, and gather the errors for them, one for each file."""
    refusals: list[DataError] = []
    token = _refusals.set(refusals)
    try:
        yield refusals
    finally:
        _refusals.reset(token)


def read_examples(path: Path | str, config: DataConfig, label_names: Sequence[str]) -> Examples:
    """Read a labelled file for a task whose classes are known, such as a trained model's.

    A single class in the file is no error here: accuracy on one class is a question that can be asked.

    Raises:
        DataError: The file can't be read right, or holds a label that is not among `label_names`.
    """
    path = Path(path)
    return to_examples(read_rows(path, config), label_names, path, config)


def read_rows(path: Path, config: DataConfig) -> list[Row]:
    """Read all rows of a labelled file; there is at least one.

    Raises:
        DataError: The file can't be read right.
    """
    if path.name in COLA_FILES:
        return _read_cola(path, config)
    return parse_records(read_records(path, config), config, path)


def read_files(files: Sequence[Path], config: DataConfig) -> list[list[Row]]:
    """Read the rows of each file of one set, and say how many there are.

    Raises:
        DataError: A file can't be read right, or lacks columns that the first one has.
    """
    rows: list[list[Row]] = []
    for file in files:
        try:
            rows.append(read_rows(file, config))
        except MissingColumnError as error:
            remedy = f"give it the columns of {files[0]}: all files need the same"
            raise DataError(error.message, file=file, line=error.line, remedy=remedy) if rows else error from None
    if len(files) > 1:
        counts = [f"{file.name} {len(found):,}" for file, found in zip(files[:_SHOWN_FILES], rows, strict=False)]
        more = f" and {len(files) - _SHOWN_FILES:,} more" if len(files) > _SHOWN_FILES else ""
        print_line(f"rows of each file: {', '.join(counts)}{more}")
    return rows


def parse_records(records: Iterable[Record], config: DataConfig, file: Origin) -> list[Row]:
    """Turn records into rows: strip the texts, check every value.

    Raises:
        DataError: There are no records, or some lack a column, a text or a label (unless these are to be skipped);
            lists the first of these.
    """
    columns = named_columns(config)
    rows: list[Row] = []
    problems: list[DataError] = []
    bad: list[dict[str, object]] = []
    for line, record in records:
        try:
            if isinstance(record, DataError):
                raise record
            check_columns(list(record), config, file, line)
            cells = {role: _Cell(record[name], name, file, line) for role, name in columns.items()}
            pair = cells["pair"].text() if "pair" in cells else None
            found = list(_labels(cells, config))
            labels = tuple(dict.fromkeys(cell.label() for cell in found))
            is_string = any(isinstance(cell.value, str) for cell in found)
            rows.append(Row(line, cells["text"].text(), pair, labels, is_string))
        except DataError as error:
            problems.append(error)
            row = {} if isinstance(record, DataError) else {"row": dict(record)}
            bad.append({"line": line, "problem": error.message, **row})
    if problems:
        refusal = _in_one(problems, "; --skip-bad-rows leaves such rows out" if rows else "")
        if (refusals := _refusals.get()) is not None:
            refusals.append(refusal)
        elif not config.skip_bad_rows:
            raise refusal
        else:
            warn(f"{file}:{refusal.line}: {refusal.message}\n  left out; {_keep(bad, file)}")
    if not rows:
        raise DataError("there are no rows", file=file, remedy="check that this is the file you meant")
    return rows


def _labels(cells: Mapping[str, _Cell], config: DataConfig) -> Iterator[_Cell]:
    """Yield a cell for each label of a row."""
    if config.classes:
        return
    if config.label_columns:
        columns = [cell for role, cell in cells.items() if role not in ("text", "pair")]
        yield from (replace(cell, value=cell.column) for cell in columns if cell.says_yes())
    elif config.is_multi_label:
        yield from cells["label"].several(config.label_separator)
    else:
        yield cells["label"].single()


def several_labels(value: object, config: DataConfig, file: Origin, line: int) -> list[str]:
    """Read the labels in one value, in a list or between separators, or the only one.

    Raises:
        DataError: It holds none, or something else.
    """
    cells = _Cell(value, config.label_column, file, line).several(config.label_separator)
    return [cell.label() for cell in cells]


def _keep(rows: Iterable[dict[str, object]], file: Origin) -> str:
    """Write bad rows to a file in the working directory that is named after theirs; say where, or why not."""
    path = Path(re.sub(r"[^\w.-]+", "-", str(file)).lstrip("-.") + BAD_ROWS)
    try:
        write_text(path, "".join(f"{json.dumps(row, default=str)}\n" for row in rows))
    except ArtifactError as error:
        return f"they can't be listed in a file: {error}"
    return f"{path} lists them"


def _in_one(problems: Sequence[DataError], hint: str = "") -> DataError:
    """Make one error of the problems with rows; it lists the first of them."""
    first = problems[0]
    if len(problems) == 1:
        return DataError(first.message, file=first.file, line=first.line, remedy=first.remedy + hint)
    shown = "".join(f"\n  line {one.line}: {one.message}" for one in problems[:_SHOWN_PROBLEMS])
    more = f"\n  and {len(problems) - _SHOWN_PROBLEMS:,} more" if len(problems) > _SHOWN_PROBLEMS else ""
    message = f"{len(problems):,} rows can't be read{shown}{more}"
    return DataError(message, file=first.file, line=first.line, remedy=f"of the first row: {first.remedy}{hint}")


def to_examples(rows: Sequence[Row], label_names: Sequence[str], file: Origin, config: DataConfig) -> Examples:
    """Replace the labels by class indices, or of texts that may have several by a row of 0 and 1.

    Raises:
        DataError: Labels are not among `label_names`; lists the first of them.
    """
    index = {label_key(name): position for position, name in enumerate(label_names)}
    index |= {name: position for position, name in enumerate(label_names)}
    places = [[index.get(label, index.get(label_key(label), -1)) for label in row.labels] for row in rows]
    remedy = by_editing(file, "correct it, leave the row out, or train with it")
    remedy += f"; the known labels are {listed(label_names)}"
    if not config.is_multi_label:
        unknown = {label for row, found in zip(rows, places, strict=True) if found == [-1] for label in row.labels}
        joined, separator = joined_labels({*label_names, *unknown})
        if not unknown.isdisjoint(joined):
            remedy += f"; several labels of a text need --label-separator {separator!r}"
    problems = [
        DataError(f"unknown label {label!r}", file=file, line=row.line, remedy=remedy)
        for row, found in zip(rows, places, strict=True)
        for label, place in zip(row.labels, found, strict=True)
        if place < 0
    ]
    if problems:
        raise _in_one(problems)
    if config.is_multi_label:
        none = UNLABELLED if config.classes else 0
        labels: Labels = np.full((len(rows), len(label_names)), none, dtype=np.int8)
        for place, found in enumerate(places):
            labels[place, found] = 1
    else:
        labels = np.array([found[0] if found else UNLABELLED for found in places], dtype=np.int64)
    return Examples(
        texts=tuple(row.text for row in rows),
        labels=labels,
        pairs=tuple(row.pair for row in rows if row.pair is not None) or None,
    )


def _read_cola(path: Path, config: DataConfig) -> list[Row]:
    """Read one of CoLA's own files, whose columns and labels have a meaning but no names."""
    header = ("source", "label", "mark", "sentence")
    columns = config.model_copy(update=dict(COLA_COLUMNS))
    rows = parse_records(name_fields(split_tsv(read_content(path)[0], path), header, path), columns, path)
    names = dict(zip("01", COLA_LABELS, strict=True))
    return [replace(row, labels=tuple(names.get(label, label) for label in row.labels)) for row in rows]


@dataclass(frozen=True, slots=True)
class _Cell:
    """One value, and its place."""

    value: object
    column: str
    file: Origin
    line: int

    def text(self) -> str:
        """Return a text without the white space around it."""
        if not isinstance(self.value, str):
            found = "nothing" if self.value is None else type(self.value).__name__
            raise self._refusal(f"should hold text, found {found}", "write it as a string, or leave the row out")
        if not self.value.strip():
            raise self._refusal("holds an empty text", "leave the row out")
        return self._stripped(self.value)

    def single(self) -> _Cell:
        """Return the cell of the only label where it holds a list of one, as annotation tools write it."""
        value = self._list()
        if not isinstance(value, list):
            return self
        if len(value) > 1:
            message = f"holds {len(value)} labels, and a text has one class: {listed(value)}"
            several = "if a text may have several, add --multi-label; else "
            raise self._refusal(message, "keep one label of each text, or leave the row out", several)
        return replace(self, value=value[0] if value else None)

    def several(self, separator: str | None) -> list[_Cell]:
        """Return a cell for each label: those in a list, or between separators; an empty cell has none."""
        value = self._list()
        if isinstance(value, str) and _NO_LIST.fullmatch(value):
            value = []
        elif isinstance(value, str) and separator is not None:
            value = list(filter(None, map(str.strip, value.split(separator))))
        if value is None:
            raise self._refusal("holds no labels", "write an empty list if it has none of the classes, or leave it out")
        return [replace(self, value=one) for one in (value if isinstance(value, list) else [value])]

    def says_yes(self) -> bool:
        """Read 0 or 1, or a truth value."""
        written = str(self.value).strip().lower()
        if self.value is None or written not in (*_YES, *_NO):
            edit = "write 0 or 1; texts with several labels in one column need --label-separator or --multi-label"
            raise self._refusal(f"holds {repr(self.value)[:_SHOWN_CHARACTERS]}, expected 0 or 1", edit)
        return written in _YES

    def _list(self) -> object:
        """Return the value, read as a list where it is one in a string."""
        if isinstance(self.value, str) and _LIST.fullmatch(self.value):
            return [quoted[1:-1] for quoted in _QUOTED.findall(self.value)]
        return self.value

    def label(self) -> str:
        """Return a label as a string; numbers and truth values as JSON spells them, whole floats as integers.

        pandas makes floats of a column of integers in which a value is missing, so 1.0 means 1 and NaN means no label.
        """
        match self.value:
            case bool():
                return str(self.value).lower()
            case int():
                return str(self.value)
            case float() | Decimal() if math.isfinite(self.value) and self.value == int(self.value):
                return str(int(self.value))
            case str() if label_key(self.value) and (label := self._stripped(self.value)).lower() not in MISSING:
                return label
        if isinstance(self.value, str) and label_key(self.value):
            edit = "add it, leave the row out, or write another word where this is a class"
            raise self._refusal(f"holds no label, but {self.value.strip()!r}", edit)
        if self.value is None or isinstance(self.value, str) or self.value != self.value:
            raise self._refusal("holds no label", "add it, or leave the row out")
        message = f"holds {repr(self.value)[:_SHOWN_CHARACTERS]}, which is neither a string nor a whole number"
        raise self._refusal(message, "turn the values into classes", "name another --label-column, or ")

    def _stripped(self, text: str) -> str:
        """Strip white space; refuse half a surrogate pair, which JSON can hold and on which tokenizers fail."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            message = f"holds a broken character at position {error.start}"
            edit = "write the character as UTF-8, or as both halves of its \\u escape"
            raise self._refusal(message, edit) from None
        return text.strip()

    def _refusal(self, message: str, edit: str, instead: str = "") -> DataError:
        """Make the error for this value, with the edit that mends it and what can be done instead."""
        remedy = instead + by_editing(self.file, edit)
        return DataError(f"column {self.column!r} {message}", file=self.file, line=self.line, remedy=remedy)
