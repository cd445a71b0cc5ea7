"""Files as people have them, made lines of UTF-8: unpacked, converted from other encodings, tables written as JSONL.

| suffix                       | becomes                                                                             |
|------------------------------|-------------------------------------------------------------------------------------|
| `.gz`, `.bz2`, `.xz`, `.zst` | the file inside, whose suffix is the one before: `tickets.csv.gz`                     |
| `.zip`                       | the only file inside                                                                |
| `.json`                      | JSONL: of an array of objects, or of columns as pandas writes them; or it is JSONL    |
| `.xlsx`                      | JSONL: of the first sheet with content, whose first row names the columns             |

Of converted tables, the number of a line is that of the row or object.
"""

from __future__ import annotations

import codecs
import importlib
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Final, NamedTuple, cast

from potstill.errors import DataError, MissingExtraError
from potstill.predict.encoding import SAMPLE_BYTES, certain_encoding, wide_encoding

_UNPACKERS: Final = {
    **{".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"},
    ".zst": "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
}
"""Modules whose `open` unpacks a file."""
PACKED: Final = (*_UNPACKERS, ".zip")
TABLES: Final = (".json", ".ndjson", ".xlsx")
"""Suffixes of what becomes JSONL."""
_MAX_RATIO: Final = 200
"""Text gets 3 to 20 times smaller when it is packed; what unpacks to more than this was made to fill a disk."""
_UNSUSPECTED: Final = 1 << 26
"""Bytes to which any file may unpack."""
_SCANNED: Final = 1 << 26
"""Bytes in which letters outside ASCII are looked for. They tell the encoding, and English text has few."""
_DAMAGES: Final = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError)
"""Errors of unpacking; zipfile's for encrypted files and for unknown methods are the last two."""


class Opened(NamedTuple):
    """A file's content."""

    content: BinaryIO
    """Lines of UTF-8; of a `.parquet` file, its bytes."""
    name: str
    """Name of what was inside, of which the suffix tells the format."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the file is read."""


def open_table(file: BinaryIO, name: str, *, convert: bool = True) -> Opened:
    """Open a file's content: unpacked, in UTF-8 and, if it is to be converted, with one row in a line.

    An encoding of which there is doubt is left as it is.

    Raises:
        DataError: It can't be unpacked or read, or unpacks to absurdly much.
        MissingExtraError: A package is missing.
    """
    try:
        stream, inside = _unpack(file, name)
        suffix = PurePath(inside).suffix.lower()
        if suffix == ".xlsx" and convert:
            return _open_sheet(io.BytesIO(b"".join(_blocks(stream, name, _most_bytes(file)))), name)
        encoding = None if suffix == ".parquet" else _find_encoding(stream, is_seekable=file.seekable())
    except _DAMAGES as error:
        raise _damage(name, error) from None
    if stream is not file:
        stream = _stream(_blocks(stream, name, _most_bytes(file)))
    if encoding is not None:
        stream = _stream(_recoded(stream, encoding))
    if suffix in TABLES and convert:
        stream, inside = _as_lines(stream, name), f"{inside}.jsonl"
    return Opened(stream, inside, () if encoding is None else (f"this is no UTF-8, and is read as {encoding}",))


def inner_suffix(path: Path) -> str:
    """Return the suffix, in lower case, of what is in a file that may be packed; of an unreadable one its own."""
    suffix = path.suffix.lower()
    if suffix in _UNPACKERS:
        return PurePath(path.stem).suffix.lower()
    if suffix == ".zip" and path.is_file():
        with path.open("rb") as file:
            try:
                return PurePath(_only_file(zipfile.ZipFile(file))).suffix.lower()
            except (*_DAMAGES, ValueError):
                pass
    return suffix


def _unpack(file: BinaryIO, name: str) -> tuple[BinaryIO, str]:
    """Return what unpacks a file, or the file, and the name of what is inside."""
    path = PurePath(name)
    if module := _UNPACKERS.get(path.suffix.lower()):
        return _import(module).open(file), path.stem
    if path.suffix.lower() == ".zip":
        archive = zipfile.ZipFile(file)
        member = _only_file(archive)
        return cast("BinaryIO", archive.open(member)), member
    return file, path.name


def _only_file(archive: zipfile.ZipFile) -> str:
    """Return the name of the one file of an archive, but for what macOS adds."""
    names = [one for one in archive.namelist() if not one.endswith("/") and not one.startswith("__MACOSX/")]
    if len(names) != 1:
        raise RuntimeError(f"expected one file inside, found {len(names):,}; unpack it and give the files' directory")
    return names[0]


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise MissingExtraError(module, "files") from None


def _damage(name: str, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or error
    return DataError(f"this can't be opened or unpacked: {reason}", file=name, remedy="check the file")


def _most_bytes(file: BinaryIO) -> int:
    """Return how large a packed file's content may be."""
    if not file.seekable():
        return _UNSUSPECTED
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(place)
    return max(_UNSUSPECTED, _MAX_RATIO * size)


def _blocks(stream: BinaryIO, name: str, most: int) -> Iterator[bytes]:
    """Yield what is unpacked."""
    total = 0
    try:
        while block := stream.read(SAMPLE_BYTES):
            if (total := total + len(block)) > most:
                raise DataError(
                    f"this unpacks to more than {most >> 20:,} MiB, over {_MAX_RATIO} times its size",
                    file=name,
                    remedy="unpack it yourself, and look at what is inside",
                )
            yield block
    except Exception as error:
        if isinstance(error, _DAMAGES) or type(error).__name__ in ("ZstdError", "LZMAError"):
            raise _damage(name, error) from None
        raise


class _Blocks(io.RawIOBase):
    """A stream of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            if (block := next(self._blocks, None)) is None:
                return 0
            self._left = memoryview(block)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def _stream(blocks: Iterator[bytes]) -> BinaryIO:
    return io.BufferedReader(_Blocks(blocks), SAMPLE_BYTES)


def _find_encoding(stream: BinaryIO, *, is_seekable: bool) -> str | None:
    """Return the encoding of what is not UTF-8, if there is little doubt; a pipe is known by its beginning alone."""
    if not is_seekable:
        beginning = stream.peek(SAMPLE_BYTES) if isinstance(stream, io.BufferedReader) else b""
        return wide_encoding(beginning[:SAMPLE_BYTES]) or certain_encoding(beginning.splitlines()[:-1])
    place, scanned, last = stream.tell(), 0, b""
    found: list[bytes] = []
    while scanned < _SCANNED and sum(map(len, found)) < SAMPLE_BYTES and (block := stream.read(SAMPLE_BYTES)):
        if not scanned and (wide := wide_encoding(block)):
            stream.seek(place)
            return wide
        scanned += len(block)
        *lines, last = (last[-SAMPLE_BYTES:] + block).splitlines(keepends=True)
        found += [line for line in lines if not line.isascii()]
    stream.seek(place)
    return certain_encoding(found if last.isascii() else [*found, last])


def _recoded(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield blocks in UTF-8; what is no text of the encoding becomes what is none of UTF-8 either."""
    errors = "surrogatepass" if encoding.startswith("utf") else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    while block := stream.read(SAMPLE_BYTES):
        yield decoder.decode(block).encode("utf-8", errors)
    try:
        yield decoder.decode(b"", final=True).encode("utf-8", errors)
    except UnicodeDecodeError:  # the end of a character is missing
        yield b"\xff"


def _lines(rows: Iterable[object]) -> Iterator[bytes]:
    """Yield rows as JSONL; None becomes an empty line, which keeps the number of the others."""
    for row in rows:
        yield b"\n" if row is None else json.dumps(row).encode() + b"\n"


def _as_lines(stream: BinaryIO, name: str) -> BinaryIO:
    """Write JSON as JSONL, unless it is that."""
    content = stream.read()
    try:
        return _stream(_lines(_objects(json.loads(content.decode("utf-8-sig")))))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError) or not content.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"["):
            return io.BytesIO(content)
        remedy = "write an array of objects, or one object a line"
        raise DataError(
            f"this is no JSON: {error}", file=name, line=getattr(error, "lineno", 1), remedy=remedy
        ) from None


def _objects(value: object) -> list[object]:
    """Return the objects of an array, of the only array of them in an object, or of columns of values."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return [value]
    inner = list(value.values())
    arrays = [one for one in inner if isinstance(one, list) and one and all(isinstance(row, dict) for row in one)]
    if len(arrays) == 1:
        return cast("list[object]", arrays[0])
    if inner and all(isinstance(column, list) and len(column) == len(inner[0]) for column in inner):
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)]
    if inner and all(isinstance(column, dict) and column.keys() == inner[0].keys() for column in inner):
        return [{name: column[key] for name, column in value.items()} for key in inner[0]]
    return [value]


def _open_sheet(file: BinaryIO, name: str) -> Opened:
    """Write the first sheet with content as JSONL, its cells as a CSV file has them."""
    try:
        with zipfile.ZipFile(file) as archive:
            if (size := sum(one.file_size for one in archive.infolist())) > _most_bytes(file):
                problem = f"this unpacks to {size >> 20:,} MiB, over {_MAX_RATIO} times its size"
                raise DataError(problem, file=name, remedy="save the sheet as CSV (UTF-8) in the spreadsheet program")
        book = _import("openpyxl").load_workbook(file, read_only=True, data_only=True)
        sheets = {sheet.title: _sheet_rows(sheet) for sheet in book.worksheets}
        filled = {title: rows for title, rows in sheets.items() if any(map(any, rows))}
    except (*_DAMAGES, ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise DataError(f"this can't be read as XLSX: {error}", file=name, remedy="check the file") from None
    title, rows = next(iter(filled.items()), ("", []))
    others = ", ".join(repr(other) for other in filled if other != title)
    notes = (f"of its sheets, {title!r} is read, and not {others}",) if others else ()
    first = next((place for place, row in enumerate(rows) if any(row)), 0)
    header = rows[first] if rows else []
    if twice := sorted({column for column in header if column and header.count(column) > 1}):
        remedy = "rename all but one"
        raise DataError(f"several columns are called {twice[0]!r}", file=name, line=first + 1, remedy=remedy)

    def objects() -> Iterator[object]:
        yield from [None] * min(first + 1, len(rows))
        for row in rows[first + 1 :]:
            record = {column: cell for column, cell in zip(header, row, strict=False) if column}
            yield record if any(row) else None

    return Opened(_stream(_lines(objects())), f"{name}.jsonl", notes)


def _sheet_rows(sheet: Any) -> list[list[str]]:
    sheet.reset_dimensions()  # some programs write wrong ones
    rows = [[_cell(value) for value in row] for row in sheet.iter_rows(values_only=True)]
    width = max(map(len, rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows]


def _cell(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return text.lower() if isinstance(value, bool) else text
