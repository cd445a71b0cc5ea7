"""Files of labelled text as records: mappings from column to value, each with its line.

| suffix     | read as                                                                                 |
|------------|-----------------------------------------------------------------------------------------|
| `.csv`     | header, commas (or `;`, tabs, `|`), quoted fields (RFC 4180), UTF-8                     |
| `.tsv`     | header, tabs, no quoting: a quotation mark is a character like any other, UTF-8         |
| `.jsonl`   | one JSON object a line, UTF-8                                                           |
| `.parquet` | columns by name; "line" is the number of the row                                        |
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.config import DataConfig
from potstill.console import print_line
from potstill.data.columns import check_columns, listed, named_columns
from potstill.errors import DataError
from potstill.predict.encoding import SAMPLE_BYTES, conversion, find_encoding, not_utf8, wide_encoding
from potstill.predict.stream import SEPARATOR_LINE, convert_first, find_separator

Record = tuple[int, Mapping[str, object] | DataError]
"""A line number (physical, from 1; a row number where there are no lines), and the values by column or what is wrong
with that line."""

Fields = tuple[int, list[str]]
"""A line number, and the values of a format that has no names beside them."""


def read_records(path: Path, config: DataConfig) -> Iterator[Record]:
    """Read a file by its suffix. A line that can't be read is part of what is yielded.

    Raises:
        DataError: The suffix is unknown, the file as a whole can't be read, or a column that `config` names is missing.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        message = f"the suffix {path.suffix!r} does not tell the format"
        remedy = convert_first(path) or "convert it"
        raise DataError(message, file=path, remedy=f"{remedy}, or rename it to {listed(SUFFIXES)} if it is one")
    return reader(path, config)


def name_fields(lines: Iterable[Fields], header: Sequence[str], path: Path) -> Iterator[Record]:
    """Make records of fields."""
    for line, fields in lines:
        if len(fields) == len(header):
            yield line, dict(zip(header, fields, strict=True))
        else:
            remedy = (
                "give every column a field; a text that holds the separator needs quotation marks around it in a CSV "
                "file and can't be in a TSV file"
            )
            message = f"expected {len(header)} fields, found {len(fields)}"
            yield line, DataError(message, file=path, line=line, remedy=remedy)


def split_tsv(path: Path, _: DataConfig | None = None) -> Iterator[Fields]:
    """Yield each line's fields; empty lines are skipped.

    Tab-separated values are read without quoting: their texts hold no tabs, but many a lone quotation mark, which a
    reader with quoting on would take for the start of a field that swallows rows.
    """
    for line, text in enumerate(_open_text(path), start=1):
        if record := text.rstrip("\r\n"):
            yield line, record.split("\t")


def _split_csv(path: Path, config: DataConfig) -> Iterator[Fields]:
    """Yield each record's fields with the line that it starts on; empty lines are skipped.

    The csv module's limit on a field's length stays as it is: it holds for the whole process, and stops a quotation
    mark that is never closed near its place.
    """
    text = _open_text(path)
    named = SEPARATOR_LINE.fullmatch(next(text, "").strip("\r\n"))
    line, start = (2, text.tell()) if named else (1, 0)
    text.seek(start)
    header = next(filter(str.strip, text), "")
    separator = named[1] if named else find_separator(header, set(named_columns(config).values()))
    if separator != ",":
        print_line(f"{path}: columns are separated by {separator!r}")
    text.seek(start)
    before, reader = line, csv.reader(text, strict=True, delimiter=separator)
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = before + reader.line_num
    except csv.Error as error:
        raise DataError(
            f"the record that starts here can't be read: {error}",
            file=path,
            line=line,
            remedy="look for a quotation mark that is never closed; inside a quoted text, write each one twice; "
            f"save texts of more than {csv.field_size_limit()} characters as TSV, JSONL or Parquet",
        ) from None


def _read_delimited(
    path: Path, config: DataConfig, split: Callable[[Path, DataConfig], Iterator[Fields]]
) -> Iterator[Record]:
    """Read delimited text whose first line names the columns."""
    lines = split(path, config)
    for line, names in lines:  # once: the rest of the lines are its rows
        header = [name.strip() for name in names]
        check_columns(header, config, path, line)
        yield from name_fields(lines, header, path)


def _read_jsonl(path: Path, _: DataConfig) -> Iterator[Record]:
    remedy = 'write one object a line, such as {"text": "...", "label": "..."}'
    for line, text in enumerate(_open_text(path), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield line, DataError(f"this is no JSON: {error}", file=path, line=line, remedy=remedy)
            continue
        if not isinstance(record, dict):
            message = f"expected a JSON object, found {type(record).__name__}"
            record = DataError(message, file=path, line=line, remedy=remedy)
        yield line, record


def _read_parquet(path: Path, config: DataConfig) -> Iterator[Record]:
    try:
        with pq.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names, config, path)
            table = file.read(columns=list(named_columns(config).values()))
        table.validate(full=True)  # finds strings that are no UTF-8
        records = table.to_pylist()  # not every value of Parquet's types is one of Python's
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise DataError(
            f"this can't be read as Parquet: {error}", file=path, remedy="check the path, or write the file again"
        ) from None
    yield from enumerate(records, start=1)


_READERS: Mapping[str, Callable[[Path, DataConfig], Iterator[Record]]] = MappingProxyType(
    {
        ".csv": partial(_read_delimited, split=_split_csv),
        ".tsv": partial(_read_delimited, split=split_tsv),
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
)
SUFFIXES = tuple(_READERS)
"""The suffixes of the files that can be read."""


def _open_text(path: Path) -> io.StringIO:
    """Decode a whole file, byte order mark or not, so that a wrong byte is known by its line; line ends are kept."""
    try:
        content = path.read_bytes()
        if encoding := wide_encoding(content[:SAMPLE_BYTES]):
            raise not_utf8(encoding, str(path))
        return io.StringIO(content.decode("utf-8-sig"), newline="")
    except OSError as error:
        raise DataError(f"this can't be opened: {error.strerror}", file=path, remedy="check the path") from None
    except UnicodeDecodeError as error:
        before = content[: error.start].rpartition(b"\n")[0]
        raise DataError(
            f"this is no UTF-8: {error.reason}",
            file=path,
            line=len(content[: error.start + 1].splitlines()),
            remedy=conversion(find_encoding(content[len(before) :][:SAMPLE_BYTES]), str(path)),
        ) from None
