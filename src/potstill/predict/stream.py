"""Texts to classify, read one after the other from a stream of any size.

Training data (`data/readers.py`) is refused where a line is broken; a stream is read past its broken lines: each is
returned with its number and what is wrong with it. The memory does not grow with the stream.

| format  | read as                                                                                          |
|---------|--------------------------------------------------------------------------------------------------|
| `text`  | a text a line; a pair of texts with a tab between                                                |
| `csv`   | header, commas (or `;`, tabs, `|`), quoted fields (RFC 4180)                                     |
| `tsv`   | header, tabs, no quoting: a quotation mark is a character like any other                         |
| `jsonl` | one JSON object a line                                                                           |

All are UTF-8, with or without a byte order mark; `predict/files.py` converts others. A line ends with a line feed, a
carriage return or both, and nothing else: Unicode's other line separators belong to the text. Empty lines are passed
over.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import textwrap
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, get_args

from potstill.errors import DataError
from potstill.predict.encoding import SAMPLE_BYTES, conversion, find_encoding, not_utf8, wide_encoding

Format = Literal["text", "csv", "tsv", "jsonl"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)

MAX_BYTES: Final = 1 << 20
"""Longest line, and longest CSV record, in bytes: bounds the memory where a file has no line feeds."""
_BEGINNING: Final = 1024
"""Bytes of a stream's beginning by which UTF-16 and UTF-32 are known."""
_LINE_ENDS: Final = (b"\n", b"\r")
CHUNK_TEXTS: Final = 4096
"""Texts classified at a time: enough to find many of like length for every batch."""
CHUNK_BYTES: Final = 1 << 22
"""Bytes of the stream that are dealt with at a time, for long texts and for long columns beside them."""
SEPARATOR_LINE: Final = re.compile('"?sep=([^"])"?', re.IGNORECASE)
"""Excel's first line of a CSV file, which names the separator."""
_NO_LINES: Final = {
    ".parquet": "write it as JSONL",
    **dict.fromkeys((".xls", ".ods"), "save it as XLSX or CSV (UTF-8) in the spreadsheet program"),
    **dict.fromkeys((".7z", ".tar", ".tgz", ".rar"), "unpack it"),
}
"""Suffixes of files that don't consist of lines of text, and what to do about them."""
_DEPTH: Final = 100
"""How deep a JSON object may be nested."""
_SHOWN: Final = 200
"""Most characters of a line that a message repeats."""


class Position(NamedTuple):
    """A place between two lines of a stream, and what came before it."""

    offset: int = 0
    """Bytes before."""
    lines: int = 0
    """Lines before."""
    crc: int = 0
    """CRC-32 of all bytes before: shows whether another stream begins like this one."""


BEGINNING: Final = Position()


@dataclass(frozen=True)
class Layout:
    """Where in a stream the texts are."""

    format: Format
    in_pairs: bool = False
    columns: tuple[str, ...] = ("text",)
    """Column with the text, or those with both texts of a pair, of the formats that have columns."""


class Text(NamedTuple):
    """A text, or a pair of texts."""

    line: int
    """Number of the line where it begins, from 1."""
    value: str | tuple[str, str]
    end: Position
    """The place behind it."""
    others: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """The other columns, by name."""


class Broken(NamedTuple):
    """A line that holds no text that could be classified."""

    line: int
    problem: str
    end: Position
    undecodable: bytes = b""
    """The beginning of a line that is not UTF-8."""

    def error(self, name: str) -> DataError:
        """Make the error of a stream that may not hold such a line."""
        remedy = "correct it, or leave it out"
        if self.undecodable:
            remedy = conversion(find_encoding(self.undecodable), name)
        return DataError(self.problem, file=name, line=self.line, remedy=remedy)


def format_by_suffix(path: Path) -> Format:
    """Return how a file is read: by the suffixes `.csv`, `.tsv` and `.jsonl`, else as a text per line.

    Raises:
        DataError: Its suffix says that it is none of these.
    """
    formats: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl"}
    if remedy := convert_first(path):
        raise DataError(
            f"expected lines of text, CSV, TSV or JSONL, found {path.suffix.lower()}",
            file=path,
            remedy=f"{remedy}; where it is one of these, name it with --input-format (predict)",
        )
    return formats.get(path.suffix.lower(), "text")


def convert_first(path: Path) -> str:
    """Return what to do first with a file whose suffix says that it holds no lines of text; else nothing."""
    how = _NO_LINES.get(path.suffix.lower())
    return f"convert it: {how}" if how else ""


def read(stream: BinaryIO, layout: Layout, name: str, start: Position = BEGINNING) -> Iterator[Text | Broken]:
    """Read texts after `start`, in their order, and what is broken between them; errors call the stream by `name`.

    Raises:
        DataError: The stream is UTF-16 or UTF-32, its header is broken or lacks a column, or what comes before `start`
            is not what it was.
    """
    lines = _Lines(stream, name)
    parse = _parser(lines, layout, name)
    _skip(lines, start, name)
    for line in lines:
        try:
            text = line.text()
            if text.strip():
                value, others = parse(text)
                yield Text(line.number, value, lines.end, others)
        except _BrokenError as error:
            yield Broken(line.number, str(error), lines.end, error.undecodable)


def from_arguments(texts: Iterable[str], *, in_pairs: bool) -> Iterator[Text | Broken]:
    """Take each of `texts` for a line of the format `text`, its number for the line's."""
    for number, text in enumerate(texts, start=1):
        try:
            yield Text(number, _parse_plain(text, in_pairs), BEGINNING)
        except _BrokenError as error:
            yield Broken(number, str(error), BEGINNING)


def chunks(items: Iterable[Text | Broken], start: Position = BEGINNING) -> Iterator[list[Text | Broken]]:
    """Gather items after `start` for a model to classify together, at most `CHUNK_TEXTS`, fewer where they are long."""
    chunk: list[Text | Broken] = []
    begun = start.offset
    for item in items:
        chunk.append(item)
        if len(chunk) >= CHUNK_TEXTS or item.end.offset - begun >= CHUNK_BYTES:
            yield chunk
            chunk, begun = [], item.end.offset
    if chunk:
        yield chunk


class _BrokenError(Exception):
    """A line can't be read: what was expected and what was found."""

    def __init__(self, problem: str, undecodable: bytes = b"") -> None:
        super().__init__(problem)
        self.undecodable = undecodable


class _Line(NamedTuple):
    number: int
    content: bytes
    """With its line feed. Of a line too long, the beginning."""
    is_whole: bool

    def text(self) -> str:
        if not self.is_whole:
            raise _BrokenError(f"expected a line of at most {MAX_BYTES} bytes, found a longer one")
        try:
            return self.content.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"expected UTF-8, found byte {self.content[error.start]:#04x}"
            raise _BrokenError(problem, self.content[:SAMPLE_BYTES]) from None


class _Lines:
    """A stream's lines, and the place `end` behind the last one taken."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._pieces, self._name, self._beginning = _pieces(stream), name, b""
        self.end = BEGINNING

    def __iter__(self) -> Iterator[_Line]:
        return self

    def __next__(self) -> _Line:
        content = piece = next(self._pieces)
        size, crc = len(piece), zlib.crc32(piece, self.end.crc)
        # The rest of a line too long is read, since the next one begins behind it, but not kept.
        while not piece.endswith(_LINE_ENDS) and (piece := next(self._pieces, b"")):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
            if size <= MAX_BYTES:
                content += piece
        if len(self._beginning) < _BEGINNING:
            self._beginning += content[:_BEGINNING]
            if encoding := wide_encoding(self._beginning):
                raise not_utf8(encoding, self._name)
        is_whole = size == len(content)
        if not self.end.lines:
            content = content.removeprefix(codecs.BOM_UTF8)
        self.end = Position(self.end.offset + size, self.end.lines + 1, crc)
        return _Line(self.end.lines, content, is_whole)


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    """Yield lines with their ends, those of over `MAX_BYTES` in several pieces."""
    held = b""
    while block := stream.readline(MAX_BYTES):
        *lines, last = (held + block).splitlines(keepends=True)
        yield from lines
        held = last if last.endswith(b"\r") else b""  # a line feed may follow
        if not held:
            yield last
    if held:
        yield held


_Value = str | tuple[str, str]
_Record = tuple[_Value, dict[str, Any]]


def _parser(lines: _Lines, layout: Layout, name: str) -> Callable[[str], _Record]:
    """Return what makes a text, or pair of texts, and its other columns of a line; takes the header from `lines`."""
    if layout.format == "text":
        return lambda line: (_parse_plain(line, layout.in_pairs), {})
    if layout.format == "jsonl":
        return lambda line: _choose(_json_object(line), layout.columns)
    declared, separator = "", "\t"
    header: list[str] = []

    def split(line: str) -> list[str]:
        return line.rstrip("\r\n").split("\t") if layout.format == "tsv" else _csv_fields(line, lines, separator)

    def parse(line: str) -> _Record:
        fields = split(line)
        if len(fields) != len(header):
            raise _BrokenError(f"expected {len(header)} fields, found {len(fields)}")
        return _choose(dict(zip(header, fields, strict=True)), layout.columns)

    for first in lines:  # that holds any text; an empty stream has no header
        try:
            text = first.text()
            named = SEPARATOR_LINE.fullmatch(text.strip("\r\n")) if layout.format == "csv" else None
            declared = named[1] if named else declared
            if text.strip() and not named:
                separator = declared or find_separator(text, set(layout.columns))
                header = _header([name.strip() for name in split(text)], layout.columns)
                break
        except _BrokenError as error:
            remedy = "name the column with --text-column or --pair-column, or correct the header, or add one"
            if error.undecodable:
                remedy = conversion(find_encoding(error.undecodable), name)
            raise DataError(f"the header: {error}", file=name, line=first.number, remedy=remedy) from None
    return parse


def find_separator(header: str, columns: Collection[str]) -> str:
    """Return the separator of CSV that finds most of the columns, or else splits the header into most fields."""

    def found(separator: str) -> tuple[int, int]:
        fields = next(csv.reader([header], delimiter=separator), [])
        return len({*columns} & {field.strip() for field in fields}), len(fields)

    return max(",;\t|", key=found)  # the first of equals


def _header(names: list[str], columns: tuple[str, ...]) -> list[str]:
    """Return the names of all columns; repeated ones are numbered as in pandas, and can't hold the text."""
    for column in columns:
        if (count := names.count(column)) != 1:
            raise _BrokenError(f"expected one column {column!r}, found {count}; the columns are {_listed(names)}")
    seen: Counter[str] = Counter()
    header = []
    for name in names:
        header.append(f"{name}.{seen[name]}" if name in seen else name)
        seen[name] += 1
    return header


def _listed(names: Iterable[str]) -> str:
    return textwrap.shorten(", ".join(map(repr, names)) or "none", _SHOWN)


def _skip(lines: _Lines, start: Position, name: str) -> None:
    """Go on behind `start`, provided that what comes before it is what it was."""
    while lines.end.offset < start.offset and next(lines, None) is not None:
        pass
    if start != BEGINNING and lines.end != start:  # a header may have been read, and is not gone back to
        raise DataError(
            f"this is not the input that was begun with: its first {start.lines} lines differ",
            file=name,
            remedy="give the same input, or begin anew with another --out",
        )


def _parse_plain(line: str, in_pairs: bool) -> _Value:
    if not in_pairs:
        return _checked(line, "the line")
    first, *others = line.strip().split("\t")
    if len(others) != 1:
        raise _BrokenError(f"expected two texts with a tab between, found {len(others)} tabs")
    return _checked(first, "the first text"), _checked(others[0], "the second text")


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _BrokenError(f"expected JSON, found what can't be read: {error}") from None
    if not isinstance(value, dict):
        raise _BrokenError(f"expected a JSON object, found {type(value).__name__}")
    if line.count("[") + line.count("{") > _DEPTH and not _is_flat(value, _DEPTH):
        raise _BrokenError(f"expected JSON nested at most {_DEPTH} deep, found more")
    return value


def _is_flat(value: Any, levels: int) -> bool:
    """Say whether a value is nested at most so deep: other columns are written again, which deep ones would break."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_flat(one, levels - 1) for one in inner if isinstance(one, dict | list))


def _csv_fields(line: str, lines: _Lines, separator: str) -> list[str]:
    """Split the record that begins with `line`, and take from `lines` what else it spans.

    A quotation mark that is never closed swallows what follows, up to the next one or to the csv module's limit of a
    field: these lines are one broken record.
    """
    start = lines.end

    def spanned() -> Iterator[str]:
        yield line
        for following in lines:
            if lines.end.offset - start.offset > MAX_BYTES:
                raise _BrokenError(f"expected a record of at most {MAX_BYTES} bytes, found a longer one")
            yield following.text()

    try:
        return next(csv.reader(spanned(), strict=True, delimiter=separator), [])
    except (csv.Error, _BrokenError) as error:
        raise _BrokenError(f"the record from here to line {lines.end.lines} can't be read: {error}") from None


def _choose(record: dict[str, Any], columns: tuple[str, ...]) -> _Record:
    for column in columns:
        if column not in record:
            raise _BrokenError(f"expected a column {column!r}, found {_listed(record)}")
    first, *second = (_checked(record[column], f"column {column!r}") for column in columns)
    others = {name: value for name, value in record.items() if name not in columns}
    return (first, second[0]) if second else first, others


def _checked(value: object, where: str) -> str:
    """Return a text without the white space around it."""
    if not isinstance(value, str):
        raise _BrokenError(f"expected a text in {where}, found {'nothing' if value is None else type(value).__name__}")
    if not (text := value.strip()):
        raise _BrokenError(f"expected a text in {where}, found an empty one")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON's \u escapes can write half a surrogate pair, which is no character
        raise _BrokenError(f"expected whole characters in {where}, found half of one at {error.start}") from None
    return text
