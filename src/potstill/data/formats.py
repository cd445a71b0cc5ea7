"""Files of labelled text as records: mappings from column to value, each with its line.

| suffix     | read as                                                                                 |
|------------|-----------------------------------------------------------------------------------------|
| `.csv`     | header, commas (or `;`, tabs, `|`), quoted fields (RFC 4180)                            |
| `.tsv`     | header, tabs, no quoting: a quotation mark is a character like any other                |
| `.jsonl`   | one JSON object a line                                                                  |
| `.parquet` | columns by name; "line" is the number of the row                                        |
| `.txt`     | texts without labels, one a line; only with `data.classes`                              |

`predict/files.py` unpacks and converts others.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.config import DataConfig
from potstill.console import print_line
from potstill.data.columns import SUGGESTION_ROWS, check_columns, listed, named_columns
from potstill.data.piped import open_input
from potstill.errors import DataError
from potstill.predict.encoding import SAMPLE_BYTES, conversion, find_encoding
from potstill.predict.files import TABLES, open_table
from potstill.predict.stream import SEPARATOR_LINE, convert_first, find_separator

Record = tuple[int, Mapping[str, object] | DataError]
"""A line number (physical, from 1; a row number where there are no lines), and the values by column or what is wrong
with that line."""

Fields = tuple[int, list[str]]
"""A line number, and the values of a format that has no names beside them."""


def read_records(path: Path, config: DataConfig, *, every_column: bool = False) -> Iterator[Record]:
    """Read a file by its suffix. A line that can't be read is part of what is yielded.

    Of Parquet only the columns that `config` names are read, unless `every_column` is set: others may hold what Python
    has no type for.

    Raises:
        DataError: The suffix is unknown, the file as a whole can't be read, or a column that `config` names is missing.
    """
    content, name = read_content(path)
    suffix = PurePath(name).suffix.lower()
    reader = _read_text if suffix == _TEXT else _READERS.get(suffix)
    if reader is None:
        message = f"the suffix {PurePath(name).suffix!r} does not tell the format"
        remedy = convert_first(Path(name)) or "convert it"
        raise DataError(message, file=path, remedy=f"{remedy}, or rename it to {listed(SUFFIXES)} if it is one")
    if every_column and reader is _read_parquet:
        return _read_parquet(content, path, config, every_column=True)
    return reader(content, path, config)


def read_content(path: Path) -> tuple[bytes, str]:
    """Return a file's content as `open_table` converts it, and the name that tells its format.

    Raises:
        DataError: It can't be read.
    """
    try:
        with open_input(path) as file:
            content, name, notes = open_table(file, str(path))
            for note in notes:
                print_line(f"{path}: {note}")
            return content.read(), name
    except OSError as error:
        raise DataError(f"this can't be opened: {error.strerror}", file=path, remedy="check the path") from None


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


def split_tsv(content: bytes, path: Path, _: DataConfig | None = None) -> Iterator[Fields]:
    """Yield each line's fields; empty lines are skipped.

    Tab-separated values are read without quoting: their texts hold no tabs, but many a lone quotation mark, which a
    reader with quoting on would take for the start of a field that swallows rows.
    """
    for line, text in enumerate(_decode(content, path), start=1):
        if record := text.rstrip("\r\n"):
            yield line, record.split("\t")


def _split_csv(content: bytes, path: Path, config: DataConfig) -> Iterator[Fields]:
    """Yield each record's fields with the line that it starts on; empty lines are skipped.

    The csv module's limit on a field's length stays as it is: it holds for the whole process, and stops a quotation
    mark that is never closed near its place.
    """
    text = _decode(content, path)
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
    content: bytes, path: Path, config: DataConfig, split: Callable[[bytes, Path, DataConfig], Iterator[Fields]]
) -> Iterator[Record]:
    """Read delimited text whose first line names the columns."""
    lines = split(content, path, config)
    for line, names in lines:  # once: the rest of the lines are its rows
        header = [name.strip() for name in names]
        records = name_fields(lines, header, path)
        check_columns(header, config, path, line, rows=_mappings(records))
        yield from records


def _mappings(records: Iterable[Record]) -> Iterator[Mapping[str, object]]:
    return (record for _, record in records if not isinstance(record, DataError))


def _read_jsonl(content: bytes, path: Path, config: DataConfig) -> Iterator[Record]:
    records = _parse_jsonl(content, path)
    first = list(islice(records, SUGGESTION_ROWS))
    if rows := list(_mappings(first)):  # what none of them has is missing as a whole, not in a row
        check_columns(list(dict.fromkeys(chain.from_iterable(rows))), config, path, first[0][0], rows=rows)
    yield from chain(first, records)


def _parse_jsonl(content: bytes, path: Path) -> Iterator[Record]:
    remedy = 'write one object a line, such as {"text": "...", "label": "..."}'
    for line, text in enumerate(_decode(content, path), start=1):
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


def _read_parquet(content: bytes, path: Path, config: DataConfig, *, every_column: bool = False) -> Iterator[Record]:
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches(SUGGESTION_ROWS))
            check_columns(file.schema_arrow.names, config, path, rows=chain.from_iterable(batches))
            table = file.read(columns=None if every_column else list(named_columns(config).values()))
        table.validate(full=True)  # finds strings that are no UTF-8
        records = table.to_pylist()  # not every value of Parquet's types is one of Python's
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise DataError(
            f"this can't be read as Parquet: {error}", file=path, remedy="check the path, or write the file again"
        ) from None
    yield from enumerate(records, start=1)


def _read_text(content: bytes, path: Path, config: DataConfig) -> Iterator[Record]:
    if not config.classes:
        remedy = "name the classes and a teacher, as in `potstill run texts.txt --classes good,bad "
        remedy += "--teacher http://localhost:8000/v1 --teacher-model NAME`; or give a file with columns and labels"
        raise DataError("a text file holds no labels", file=path, remedy=remedy)
    check_columns([config.text_column], config, path)
    for line, text in enumerate(_decode(content, path), start=1):
        if text.strip():
            yield line, {config.text_column: text}


_TEXT: Final = ".txt"
_READERS: Mapping[str, Callable[[bytes, Path, DataConfig], Iterator[Record]]] = MappingProxyType(
    {
        ".csv": partial(_read_delimited, split=_split_csv),
        ".tsv": partial(_read_delimited, split=split_tsv),
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
)
SUFFIXES = (*_READERS, *TABLES)
"""The suffixes of the files that can be read, apart from those of packed ones."""


def _decode(content: bytes, path: Path) -> io.StringIO:
    """Decode a whole file, byte order mark or not, so that a wrong byte is known by its line; line ends are kept."""
    try:
        return io.StringIO(content.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        before = content[: error.start].rpartition(b"\n")[0]
        raise DataError(
            f"this is no UTF-8: {error.reason}",
            file=path,
            line=len(content[: error.start + 1].splitlines()),
            remedy=conversion(find_encoding(content[len(before) :][:SAMPLE_BYTES]), str(path)),
        ) from None
