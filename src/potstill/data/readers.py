"""One labelled file in, its rows out - or a refusal that names the file, the line and what to do about it.

Every format is read as records, mappings from column to value; from there on all of them share one path.

| suffix     | read as                                                                                    |
|------------|--------------------------------------------------------------------------------------------|
| `.csv`     | header, commas, quoted fields (RFC 4180), UTF-8                                            |
| `.tsv`     | header, tabs, no quoting: a quotation mark is a character like any other, UTF-8            |
| `.jsonl`   | one JSON object a line, UTF-8                                                              |
| `.parquet` | columns by name; "line" is the number of the row                                           |
| CoLA's own | recognised by their names: four tab-separated columns, no header, no quoting, labels 0 and 1 |
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from potstill.config import DataConfig
from potstill.data.examples import Examples
from potstill.errors import DataError

COLA_LABELS = ("unacceptable", "acceptable")
"""What CoLA's labels 0 and 1 mean."""
COLA_TRAIN, COLA_EVALUATION = "in_domain_train.tsv", "in_domain_dev.tsv"
COLA_FILES = frozenset({COLA_TRAIN, COLA_EVALUATION, "out_of_domain_dev.tsv"})
COLA_COLUMNS = MappingProxyType({"text_column": "sentence", "pair_column": None, "label_column": "label"})
"""The columns of CoLA, its own files' and the hub's, whatever columns the configuration names for other files."""

Record = tuple[int, Mapping[str, object]]
"""A line number (physical, from 1; a row number where there are no lines) and the values by column."""

Fields = tuple[int, list[str]]
"""A line number, and the values of a format that has no names beside them."""

Origin = Path | str
"""Where rows come from: a file's path, or the name of what is no file here, such as a data set of the hub.

The difference decides the remedy: nobody can leave a row out of a data set that isn't theirs.
"""

_LIKELY_NAMES = MappingProxyType(
    {
        "text": ("text", "sentence", "sentence1", "content", "review", "question", "query", "utterance", "message"),
        "pair": ("pair", "text2", "text_b", "sentence2", "question2", "hypothesis"),
        "label": ("label", "labels", "category", "class", "target", "intent", "sentiment", "topic"),
    }
)
"""What columns are called where they are not called what the configuration says; most likely first."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text, its label still a name, and the line that later complaints point at."""

    line: int
    text: str
    pair: str | None
    label: str


def read_examples(path: Path | str, config: DataConfig, label_names: Sequence[str]) -> Examples:
    """Read a labelled file for a task whose classes are known, such as a trained model's.

    A single class in the file is no error here: accuracy on one class is a question that can be asked.

    Args:
        path: A CSV, TSV, JSONL or Parquet file, or one of CoLA's own.
        config: Names the columns.
        label_names: The classes; the position is the class index.

    Raises:
        DataError: The file can't be read right, or holds a label that is not among `label_names`.
    """
    path = Path(path)
    return to_examples(read_rows(path, config), label_names, path)


def read_rows(path: Path, config: DataConfig) -> list[Row]:
    """Read all rows of a labelled file; there is at least one.

    Raises:
        DataError: The file can't be read right.
    """
    if path.name in COLA_FILES:
        return _read_cola(path, config)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"the suffix {path.suffix!r} does not tell the format", file=path, remedy=f"use {_listed(_READERS)}"
        )
    return parse_records(reader(path, config), config, path)


def parse_records(records: Iterable[Record], config: DataConfig, file: Origin) -> list[Row]:
    """Turn records into rows: strip the texts, check every value.

    Raises:
        DataError: There are no records, or one lacks a column, a text or a label.
    """
    rows = []
    for line, record in records:
        check_columns(list(record), config, file, line)
        cells = {role: _Cell(record[name], name, file, line) for role, name in named_columns(config).items()}
        pair = cells["pair"].text() if "pair" in cells else None
        rows.append(Row(line, cells["text"].text(), pair, cells["label"].label()))
    if not rows:
        raise DataError("there are no rows", file=file, remedy="check that this is the file you meant")
    return rows


def check_columns(found: Sequence[str], config: DataConfig, file: Origin, line: int | None = None) -> None:
    """Check that each column which the configuration names is there, once.

    Raises:
        DataError: With the columns that are there, the flag, and the column that was probably meant.
    """
    for role, name in named_columns(config).items():
        count = found.count(name)
        if count > 1:
            raise DataError(
                f"{count} columns are called {name!r}",
                file=file,
                line=line,
                remedy=_by_editing(file, "rename all but one"),
            )
        if count == 0:
            likely = next((c for like in _LIKELY_NAMES[role] for c in found if c.strip().lower() == like), None)
            raise DataError(
                f"there is no column {name!r}; the columns are {_listed(found)}",
                file=file,
                line=line,
                remedy=f"name the {role} column, for instance with `--{role}-column {likely}`"
                if likely
                else f"name the {role} column with --{role}-column, or add the header if the file has none",
            )


def named_columns(config: DataConfig) -> dict[str, str]:
    """Map each role, "text", "label" and where there is one "pair", to the name of its column."""
    named = {"text": config.text_column, "label": config.label_column}
    return named if config.pair_column is None else named | {"pair": config.pair_column}


def label_names_of(rows: Iterable[Row], file: Origin) -> tuple[str, ...]:
    """List the classes of training data: in numerical order if all are whole numbers, else alphabetically.

    Raises:
        DataError: There is one class only.
    """
    names = {row.label for row in rows}
    if len(names) < 2:
        raise DataError(
            f"all rows have the label {names.pop()!r}",
            file=file,
            remedy="training needs two or more classes: name another --label-column, or "
            + _by_editing(file, "add rows of another"),
        )
    # The bound keeps identifiers of hundreds of digits, which int() refuses, among the strings.
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def to_examples(rows: Sequence[Row], label_names: Sequence[str], file: Origin) -> Examples:
    """Replace the labels by class indices.

    Raises:
        DataError: A label is not among `label_names`.
    """
    index = {name: position for position, name in enumerate(label_names)}
    for row in rows:
        if row.label not in index:
            raise DataError(
                f"unknown label {row.label!r}",
                file=file,
                line=row.line,
                remedy=_by_editing(file, "correct it, leave the row out, or train with it")
                + f"; the known labels are {_listed(label_names)}",
            )
    pairs = tuple(row.pair for row in rows if row.pair is not None)
    return Examples(
        texts=tuple(row.text for row in rows),
        labels=np.array([index[row.label] for row in rows], dtype=np.int64),
        pairs=pairs or None,
    )


def _read_cola(path: Path, config: DataConfig) -> list[Row]:
    """Read one of CoLA's own files, whose columns and labels have a meaning but no names."""
    header = ("source", "label", "mark", "sentence")
    columns = config.model_copy(update=dict(COLA_COLUMNS))
    rows = parse_records(_name_fields(_split_tsv(path), header, path), columns, path)
    names = dict(zip("01", COLA_LABELS, strict=True))
    for row in rows:
        if row.label not in names:
            raise DataError(
                f"the label is {row.label!r}, expected 0 or 1 as in all of CoLA",
                file=path,
                line=row.line,
                remedy="fetch the file again, or rename it if it is not CoLA's",
            )
    return [replace(row, label=names[row.label]) for row in rows]


def _read_delimited(path: Path, config: DataConfig, split: Callable[[Path], Iterator[Fields]]) -> Iterator[Record]:
    """Read delimited text whose first line names the columns."""
    lines = split(path)
    first = next(lines, None)
    if first is None:
        return iter(())
    line, header = first
    check_columns(header, config, path, line)
    return _name_fields(lines, header, path)


def _name_fields(lines: Iterable[Fields], header: Sequence[str], path: Path) -> Iterator[Record]:
    for line, fields in lines:
        if len(fields) != len(header):
            raise DataError(
                f"expected {len(header)} fields, found {len(fields)}",
                file=path,
                line=line,
                remedy="give every column a field; a text that holds the delimiter needs quotation marks around it "
                "in a CSV file and can't stand in a TSV file",
            )
        yield line, dict(zip(header, fields, strict=True))


def _split_tsv(path: Path) -> Iterator[Fields]:
    """Yield each line's fields; empty lines are skipped.

    Tab-separated values are read without quoting: their texts hold no tabs, but many a lone quotation mark, which a
    reader with quoting on would take for the start of a field that swallows rows.
    """
    for line, text in enumerate(_open_text(path), start=1):
        if record := text.rstrip("\r\n"):
            yield line, record.split("\t")


def _split_csv(path: Path) -> Iterator[Fields]:
    """Yield each record's fields with the line that it starts on; empty lines are skipped.

    The csv module's limit on a field's length stays as it is: it holds for the whole process, and is what stops a
    quotation mark that is never closed near the place where it stands.
    """
    reader = csv.reader(_open_text(path), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"the record that starts here can't be read: {error}",
                file=path,
                line=line,
                remedy="look for a quotation mark that is never closed; inside a quoted text, write each one twice; "
                f"save texts of more than {csv.field_size_limit()} characters as TSV, JSONL or Parquet",
            ) from None
        if fields:
            yield line, fields


def _read_jsonl(path: Path, config: DataConfig) -> Iterator[Record]:
    remedy = 'write one object a line, such as {"text": "...", "label": "..."}'
    for line, text in enumerate(_open_text(path), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"this is no JSON: {error}", file=path, line=line, remedy=remedy) from None
        if not isinstance(record, dict):
            raise DataError(
                f"expected a JSON object, found {type(record).__name__}", file=path, line=line, remedy=remedy
            )
        yield line, record


def _read_parquet(path: Path, config: DataConfig) -> Iterator[Record]:
    with _parquet_refusals(path):
        with pq.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names, config, path)
            table = file.read(columns=list(named_columns(config).values()))
        table.validate(full=True)  # strings that are no UTF-8 surface here, not in the middle of the loop
    row = 0
    for batch in table.to_batches():
        with _parquet_refusals(path):
            records = batch.to_pylist()  # not every value of Parquet's types is one of Python's
        for record in records:
            row += 1
            yield row, record


@contextmanager
def _parquet_refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise DataError(
            f"this can't be read as Parquet: {error}", file=path, remedy="check the path, or write the file again"
        ) from None


_READERS: Mapping[str, Callable[[Path, DataConfig], Iterator[Record]]] = MappingProxyType(
    {
        ".csv": partial(_read_delimited, split=_split_csv),
        ".tsv": partial(_read_delimited, split=_split_tsv),
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
)
SUFFIXES = tuple(_READERS)
"""The suffixes of the files that can be read."""


def _open_text(path: Path) -> io.StringIO:
    """Decode a whole file, byte order mark or not, so that a wrong byte is known by its line; line ends are kept."""
    try:
        return io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
    except OSError as error:
        raise DataError(f"this can't be opened: {error.strerror}", file=path, remedy="check the path") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"this is no UTF-8: {error.reason}",
            file=path,
            line=len(error.object[: error.start + 1].splitlines()),
            remedy="save the file as UTF-8, for instance with `iconv -f latin1 -t utf-8`",
        ) from None


@dataclass(frozen=True, slots=True)
class _Cell:
    """One value, and where it stands."""

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

    def label(self) -> str:
        """Return a label as a string; numbers and truth values as JSON spells them, whole floats as integers.

        pandas makes floats of a column of integers in which a value is missing, so 1.0 means 1 and NaN means no label.
        """
        match self.value:
            case bool():
                return str(self.value).lower()
            case int():
                return str(self.value)
            case float() if self.value.is_integer():
                return str(int(self.value))
            case str() if self.value.strip():
                return self._stripped(self.value)
            case None | str():
                raise self._refusal("holds no label", "add it, or leave the row out")
            case float() if math.isnan(self.value):
                raise self._refusal("holds no label", "add it, or leave the row out")
        raise self._refusal(
            f"holds {self.value!r}, which is neither a string nor a whole number",
            "turn the values into classes",
            instead="name another --label-column, or ",
        )

    def _stripped(self, text: str) -> str:
        """Strip white space; refuse half a surrogate pair, which JSON can hold and on which tokenizers fail."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self._refusal(
                f"holds a broken character at position {error.start}",
                "write the character as UTF-8, or as both halves of its \\u escape",
            ) from None
        return text.strip()

    def _refusal(self, message: str, edit: str, instead: str = "") -> DataError:
        """Make the error for this value, out of the edit that mends it and of what can be done instead."""
        return DataError(
            f"column {self.column!r} {message}",
            file=self.file,
            line=self.line,
            remedy=instead + _by_editing(self.file, edit),
        )


def _by_editing(origin: Origin, edit: str) -> str:
    """Say where to make an edit: in the file, or in a copy of what is no file here."""
    return edit if isinstance(origin, Path) else f"save it as a Parquet file and give its path; in there, {edit}"


def _listed(names: Iterable[str], at_most: int = 12) -> str:
    """List names in quotes, the first few of many."""
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - at_most} more" if len(quoted) > at_most else ""
    return ", ".join(quoted[:at_most]) + more
