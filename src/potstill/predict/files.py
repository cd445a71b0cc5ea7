"""Files as people have them, made lines of UTF-8: unpacked, converted from other encodings, tables written as JSONL.

A packed file holds one file, whose suffix is the one before (`tickets.csv.gz`) or in the archive. Of converted tables
(an array of objects or pandas' columns in `.json`, the first sheet with content of `.xlsx`, Parquet), a line has the
number of its object or row.
"""

from __future__ import annotations

import codecs
import importlib
import io
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Final, NamedTuple

from potstill.errors import DataError, MissingExtraError
from potstill.predict.encoding import SAMPLE_BYTES, certain_encoding, wide_encoding

_ZSTD: Final = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_UNPACKERS: Final = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma", ".zst": _ZSTD}
"""Modules whose `open` unpacks a file."""
PACKED: Final = (*_UNPACKERS, ".zip")
_MAGIC: Final = re.compile(
    rb"(?P<gz>\x1f\x8b)|(?P<bz2>BZh[1-9]1AY&SY)|(?P<xz>\xfd7zXZ\0)|(?P<zst>\x28\xb5\x2f\xfd)|(?P<zip>PK\x03\x04)"
)
"""How packed files begin."""
TABLES: Final = (".json", ".ndjson", ".xlsx")
"""Suffixes of what becomes JSONL for training, which reads Parquet with its types, and what does for prediction."""
ALL_TABLES: Final = (*TABLES, ".parquet")
_MAX_RATIO: Final = 200
"""Packed text is 3 to 20 times smaller; what unpacks to more than this was made to fill a disk."""
_UNSUSPECTED: Final = 1 << 26
"""Bytes to which any file may unpack, and in which letters outside ASCII are looked for, which tell the encoding."""
_ROWS: Final = 4096
"""Rows of Parquet that are converted at a time."""
_DAMAGES: Final = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError)
"""Errors of unpacking; zipfile's for encrypted files and for unknown methods are the last two."""


class Opened(NamedTuple):
    """A file's content."""

    content: BinaryIO
    """Lines of UTF-8, or the bytes of Parquet."""
    name: str
    """Name of what was inside, of which the suffix tells the format."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the file is read."""


def open_table(file: BinaryIO, name: str, tables: Collection[str] = TABLES) -> Opened:
    """Open a file's content: unpacked, in UTF-8 and, with one of the suffixes `tables`, as JSONL.

    An encoding of which there is doubt is left as it is.

    Raises:
        DataError: It can't be unpacked or read, or unpacks to absurdly much.
        MissingExtraError: A package is missing.
    """
    with _refusing(name):
        stream, inside = _unpack(file, name)
        suffix = PurePath(inside).suffix.lower()
        if suffix in (".xlsx", ".parquet") and suffix in tables:
            is_plain = stream is file and file.seekable()  # then Parquet is read group by group
            whole = file if is_plain else io.BytesIO(b"".join(_blocks(stream, name, file)))
            return _open_sheet(whole, name) if suffix == ".xlsx" else Opened(_parquet_rows(whole, name), "a.jsonl")
        encoding = None if suffix == ".parquet" else _find_encoding(stream, is_seekable=file.seekable())
    if stream is not file:
        stream = _stream(_blocks(stream, name, file))
    if encoding is not None:
        stream = _stream(_recoded(stream, encoding))
    if suffix in tables:
        stream, inside = _as_lines(stream.read(), name), f"{inside}.jsonl"
    return Opened(stream, inside, () if encoding is None else (f"this is no UTF-8, and is read as {encoding}",))


def unpacked(content: bytes, name: str) -> bytes:
    """Return content that has no suffix and may be packed, which its first bytes tell; XLSX stays as it is.

    Raises:
        DataError: It can't be unpacked, or unpacks to absurdly much.
        MissingExtraError: A package is missing.
    """
    if (found := _MAGIC.match(content)) is None:
        return content
    file = io.BytesIO(content)
    with _refusing(name):
        if found.lastgroup == "zip" and "[Content_Types].xml" in zipfile.ZipFile(file).namelist():
            return content
        stream, _ = _unpack(file, f"{name}.{found.lastgroup}")
        return b"".join(_blocks(stream, name, file))


def inner_suffix(path: Path) -> str:
    """Return the suffix, in lower case, of what is in a file that may be packed; of an unreadable one its own."""
    if path.suffix.lower() in _UNPACKERS:
        return PurePath(path.stem).suffix.lower()
    if path.suffix.lower() == ".zip":
        with suppress(*_DAMAGES, DataError), path.open("rb") as file:
            return PurePath(_unpack(file, path.name)[1]).suffix.lower()
    return path.suffix.lower()


def named_files(source: str) -> list[Path]:
    """Return the file of this path, or the files whose names match it as a pattern; there may be none."""
    path = Path(source).expanduser()
    if path.exists():
        return [] if path.is_dir() else [path]
    return sorted(filter(Path.is_file, path.parent.glob(path.name))) if path.name else []


def _unpack(file: BinaryIO, name: str) -> tuple[BinaryIO, str]:
    """Return what unpacks a file, or the file, and the name of what is inside."""
    path = PurePath(name)
    if module := _UNPACKERS.get(path.suffix.lower()):
        return _import(module).open(file), path.stem
    if path.suffix.lower() != ".zip":
        return file, path.name
    archive: Any = zipfile.ZipFile(file)
    names = [one for one in archive.namelist() if not one.endswith("/") and not one.startswith("__MACOSX/")]
    if len(names) != 1:
        remedy = "unpack it; of several files, name a directory (see `potstill run --help`) or a pattern: 'part-*.csv'"
        raise _refusal(f"expected one file inside, found {len(names):,}", name, remedy=remedy)
    return archive.open(names[0]), names[0]


def _import(module: str, extra: str = "files") -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise MissingExtraError(module, extra) from None


def _refusal(problem: str, name: str, line: int | None = None, remedy: str = "check the file") -> DataError:
    return DataError(problem, file=name, line=line, remedy=remedy)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Refuse what can't be unpacked."""
    try:
        yield
    except Exception as error:
        if isinstance(error, _DAMAGES) or type(error).__name__ in ("ZstdError", "LZMAError"):
            raise _refusal(f"this can't be unpacked: {getattr(error, 'strerror', None) or error}", name) from None
        raise


def _check_size(size: int, name: str, packed: BinaryIO) -> None:
    """Refuse a content of so many bytes, or more, if the packed file is much smaller."""
    if size > _UNSUSPECTED:
        place = packed.tell()
        if size > _MAX_RATIO * packed.seek(0, io.SEEK_END):
            problem = f"this unpacks to more than {_UNSUSPECTED >> 20} MiB, and {_MAX_RATIO} times its size"
            raise _refusal(problem, name, remedy="look at what is inside, and unpack it yourself if you trust it")
        packed.seek(place)


def _blocks(stream: BinaryIO, name: str, packed: BinaryIO) -> Iterator[bytes]:
    """Yield what is unpacked."""
    total = 0
    with _refusing(name):
        for block in iter(partial(stream.read, SAMPLE_BYTES), b""):
            total += len(block)
            _check_size(total, name, packed)
            yield block


class _Blocks(io.RawIOBase):
    """A stream of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and (block := next(self._blocks, None)) is not None:
            self._left = block
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def _stream(blocks: Iterable[bytes]) -> BinaryIO:
    return io.BufferedReader(_Blocks(iter(blocks)), SAMPLE_BYTES)


def _find_encoding(stream: BinaryIO, *, is_seekable: bool) -> str | None:
    """Return the encoding of what is not UTF-8, if there is little doubt; a pipe is known by its beginning alone."""
    if not is_seekable:
        beginning = stream.peek(SAMPLE_BYTES) if isinstance(stream, io.BufferedReader) else b""
        return wide_encoding(beginning) or certain_encoding(beginning.splitlines()[:-1])
    start, last, found, wide = stream.tell(), b"", [], None
    for number, block in enumerate(iter(partial(stream.read, SAMPLE_BYTES), b"")):
        wide = wide_encoding(block) if not number else None
        *lines, last = (last[-SAMPLE_BYTES:] + block).splitlines(keepends=True)
        found += [line for line in lines if not line.isascii()]
        if wide or sum(map(len, found)) > SAMPLE_BYTES or (number + 1) * SAMPLE_BYTES >= _UNSUSPECTED:
            break
    stream.seek(start)
    return wide or certain_encoding(found if last.isascii() else [*found, last])


def _recoded(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield blocks in UTF-8; what is no text of the encoding becomes what is none of UTF-8 either."""
    errors = "surrogatepass" if encoding.startswith("utf") else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    for block in iter(partial(stream.read, SAMPLE_BYTES), b""):
        yield decoder.decode(block).encode("utf-8", errors)
    try:
        yield decoder.decode(b"", final=True).encode("utf-8", errors)
    except UnicodeDecodeError:  # the end of a character is missing
        yield b"\xff"


def _lines(rows: Iterable[object]) -> BinaryIO:
    """Write rows as JSONL; None becomes an empty line, which keeps the numbers of the others."""

    def plain(value: object) -> str | None:  # types that only Parquet has
        return None if isinstance(value, bytes) else str(value)

    return _stream(b"\n" if row is None else json.dumps(row, default=plain).encode() + b"\n" for row in rows)


def _as_lines(content: bytes, name: str) -> BinaryIO:
    """Write JSON as JSONL, unless it is that."""
    try:
        return _lines(_objects(json.loads(content.decode("utf-8-sig"))))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError) or not content.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"["):
            return io.BytesIO(content)
        remedy = "write an array of objects, or one object a line"
        raise _refusal(f"this is no JSON: {error}", name, getattr(error, "lineno", 1), remedy) from None


def _objects(value: Any) -> list[object]:
    """Return the objects of an array, of the only array of them in an object, or of columns as pandas writes them."""
    if isinstance(value, list):
        return value
    inner: list[Any] = list(value.values()) if isinstance(value, dict) else []
    arrays = [one for one in inner if isinstance(one, list) and one and all(isinstance(row, dict) for row in one)]
    if len(arrays) == 1:
        return list(arrays[0])
    if inner and all(isinstance(column, dict) and column.keys() == inner[0].keys() for column in inner):
        return [{name: column[key] for name, column in value.items()} for key in inner[0]]
    return [value]


def _parquet_rows(file: BinaryIO, name: str) -> BinaryIO:
    """Write Parquet as JSONL; bytes, which are no text, become null."""
    parquet, pyarrow = _import("pyarrow.parquet", "train"), _import("pyarrow", "train")

    def rows() -> Iterator[object]:
        try:
            opened = parquet.ParquetFile(file)
            for group in range(opened.num_row_groups):  # at once, iter_batches would keep several in memory
                for batch in opened.iter_batches(_ROWS, row_groups=[group]):
                    yield from batch.to_pylist()
        except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
            raise _refusal(f"it can't be read as Parquet: {error}", name) from None

    return _lines(rows())


def _open_sheet(file: BinaryIO, name: str) -> Opened:
    """Write the first sheet with content as JSONL, its cells as a CSV file has them."""
    try:
        with zipfile.ZipFile(file) as archive:
            _check_size(sum(one.file_size for one in archive.infolist()), name, file)
        book = _import("openpyxl").load_workbook(file, read_only=True, data_only=True)
        sheets = {sheet.title: _rows(sheet) for sheet in book.worksheets}
        title, *others = [title for title, rows in sheets.items() if any(rows)] or list(sheets)  # there may be none
    except (*_DAMAGES, ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise _refusal(f"this can't be read as XLSX: {error}", name) from None
    rows = sheets[title]
    first = next((place for place, row in enumerate(rows) if row), 0)
    header = rows[first] if rows else []
    if len(named := [column for column in header if column]) != len(set(named)):
        raise _refusal(f"several columns have one name: {', '.join(named)}", name, first + 1, "rename all but one")
    width = len(header)
    filled = (row and row + [""] * (width - len(row)) for row in rows[first + 1 :])
    records = ({key: cell for key, cell in zip(header, row, strict=False) if key} or None for row in filled)
    content = _lines([*[None] * (first + 1), *records])
    return Opened(content, f"{name}.jsonl", (f"only the sheet {title!r} is read, not {others}",) if others else ())


def _rows(sheet: Any) -> list[list[str]]:
    """Return the cells of all rows; of an empty row none."""
    sheet.reset_dimensions()  # some programs write wrong ones
    rows = [[_cell(value) for value in row] for row in sheet.iter_rows(values_only=True)]
    return [row if any(row) else [] for row in rows]


def _cell(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return text.lower() if isinstance(value, bool) else text
