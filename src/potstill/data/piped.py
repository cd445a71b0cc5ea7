"""Standard input as data: read once, and kept with what is trained on it."""

from __future__ import annotations

import io
import re
import sys
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from potstill.config import DataConfig
from potstill.config.data import STANDARD_INPUT, one_or_several
from potstill.console import print_line
from potstill.predict.files import unpacked
from potstill.store.atomic import write_bytes

_PIPED: Final = "<stdin>"
_COPY: Final = "standard-input"
_MAGIC: Final = {b"PAR1": ".parquet", b"PK\x03\x04": ".xlsx"}
"""How files that are no text begin."""
_JSON: Final = re.compile(rb'[\xef\xbb\xbf\s]*(\{\s*["}]|\[\s*["{[\]])')
"""How an object and an array begin; a text may begin with a bracket, too."""
_FIELDS: Final = re.compile(r"[,;\t|]")


@cache
def _piped() -> bytes:
    if sys.stdin.isatty():
        print_line("reading standard input; end it with Ctrl-D")
    return unpacked(sys.stdin.buffer.read(), _PIPED)


def standard_input(config: DataConfig) -> Path:
    """Read standard input, once, and return the name by which `open_input` knows it; its suffix tells the format.

    What is packed is unpacked. Parquet and XLSX are known by their first bytes, JSON and JSONL by a bracket and what
    follows it, TSV by a tab in the first line. The rest is CSV, or a text a line where texts need no label
    (`config.classes`) and the first line names no columns.
    """
    content = _piped()
    suffix = _MAGIC.get(content[:4])
    if suffix is None:
        first = content.lstrip(b"\xef\xbb\xbf \t\r\n").split(b"\n", 1)[0].decode("utf-8", "replace").strip()
        suffix = ".json" if _JSON.match(content) else ".tsv" if "\t" in first else ".csv"
        if config.classes and suffix != ".json" and config.text_column not in _FIELDS.split(first):
            suffix = ".txt"
    return Path(_PIPED + suffix)


def open_input(path: Path) -> BinaryIO:
    """Open a file, or what was read from standard input. Raises `OSError`."""
    return io.BytesIO(_piped()) if path.stem == _PIPED else path.open("rb")


def keep_standard_input(config: DataConfig, directory: Path) -> DataConfig:
    """Copy what was read from standard input, if that is data, into a directory; return settings that name the copy.

    So the run can be repeated, and its models can be evaluated.
    """
    if STANDARD_INPUT not in config.sources:
        return config
    copy = directory / (_COPY + standard_input(config).suffix)
    if not copy.is_file():
        write_bytes(copy, _piped())
    sources = tuple(str(copy) if source == STANDARD_INPUT else source for source in config.sources)
    return config.model_copy(update={"source": one_or_several(sources)})


def standard_input_in(directory: Path) -> Path | None:
    """Return the copy of standard input that a run's directory holds."""
    return next(directory.glob(f"{_COPY}.*"), None)
