"""Which encoding text has that is not UTF-8, and the command that converts it."""

from __future__ import annotations

import codecs
import re
import shlex
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Final

from potstill.errors import DataError

SAMPLE_BYTES: Final = 1 << 16
"""Bytes that are enough to tell an encoding by."""
_MARKS: Final = (  # UTF-32's begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDE: Final = ("utf-32le", "utf-32be", "utf-16le", "utf-16be")
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_MOST_CONTROLS: Final = 0.2
"""UTF-8 text has fewer control characters than this share, UTF-16 text in any alphabet more."""
_FEWEST_BYTES: Final = 8
"""In fewer bytes, UTF-16 without a byte order mark can't be recognised."""
_EAST_ASIAN: Final[tuple[tuple[str, float, Callable[[str], bool]], ...]] = (
    ("cp932", 0.2, lambda c: "\u3040" <= c <= "\u30ff"),
    ("euc-jp", 0.2, lambda c: "\u3040" <= c <= "\u30ff"),
    ("cp949", 0.95, lambda c: not "\u4e00" <= c <= "\u9fff" and len(c.encode("euc_kr", "ignore")) == 2),
    ("gb18030", 0.9, lambda c: bool(c.encode("gb2312", "ignore"))),
    ("big5", 0.9, lambda c: c.encode("big5", "replace")[0] <= 0xC6),
)
"""Encodings with the share that their common characters have in their texts. `charset_normalizer` confuses these."""
_OTHERS: Final = ("cp1251", "koi8-r", "cp1253", "cp1255", "cp1256", "cp874")
"""Encodings of scripts that `charset_normalizer` tells apart; Latin ones it does not."""
_HIGH: Final = re.compile(rb"[\x80-\xff]")
_MIXED: Final = re.compile(rb"[A-Za-z][\x80-\xff]|[\x80-\xff][A-Za-z]")
"""Other letters beside ASCII's, as in all words of Latin script that have some."""
_LATIN: Final = {"cp1252": 0, "latin1": 0, "cp1250": 1, "macintosh": 0, "cp850": 0}
"""How many odd signs an encoding has to explain before it is likely; of equally likely ones, the first is named."""
_ODD: Final = re.compile(
    r"(?<=[^\W\d_])(?![’‘'…–—°®™])(?:[^\w\x00-\x7f]|[¹²³])(?=[^\W\d_])|(?<=[a-z])[¹¿](?=\s)|(?<=[a-z])[ŠŒŽŸÀ-ÖØ-Þ]|[\x80-\x9f]"
)
"""Signs inside words, capital letters behind small ones, control characters: in another encoding they are letters."""

_MIN_LETTERS: Final = 3
"""Fewer characters outside ASCII are no evidence of an encoding."""
_SIGNS: Final = re.compile(r"(?<=[^\W\d_])(?![°®·])[\x80-¿×÷‚„†‡‰‹›˜€](?=[^\W\d_])")
"""Signs inside words; like capital letters behind small ones, they show that the encoding is wrong."""
_MAX_SIGNS: Final = 0.02
"""Most of them for each character outside ASCII."""


def wide_encoding(sample: bytes) -> str | None:
    """Return the encoding of text that begins so in UTF-16 or UTF-32, with or without a byte order mark, else None."""
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name
    if b"\0" not in sample or len(sample) < _FEWEST_BYTES:
        return None
    if _decoded(sample, "utf-8") is not None and len(_CONTROLS.findall(sample)) < _MOST_CONTROLS * len(sample):
        return None
    found = {name: _ascii_share(sample, name) for name in _WIDE}
    best = max(found, key=lambda name: found[name])
    return best if found[best] > 0 else None


def find_encoding(sample: bytes) -> str:
    """Return the likely encoding of text that is no UTF-8, as Python and iconv call it."""
    if wide := wide_encoding(sample):
        return wide
    from charset_normalizer import from_bytes  # slow to import, and needed for errors alone

    content = b"\n".join(line for line in sample.splitlines() if not line.isascii())  # the others say nothing
    for encoding, share, is_common in _EAST_ASIAN:
        text = [c for c in _decoded(content, encoding) or "" if not c.isascii()]
        if sum(map(is_common, text)) > share * len(text):
            return encoding
    if 2 * len(_MIXED.findall(content)) < len(_HIGH.findall(content)):
        best = from_bytes(content, cp_isolation=[*_OTHERS, "cp1252", "cp1250"]).best()
        for encoding in _OTHERS:
            if best is not None and best.encoding == encoding.replace("-", "_"):
                return encoding
    decoded = {name: _decoded(sample, name) for name in _LATIN}
    odd = {name: len(_ODD.findall(found)) + _LATIN[name] for name, found in decoded.items() if found is not None}
    return min(odd, key=odd.__getitem__)


def certain_encoding(lines: Sequence[bytes]) -> str | None:
    """Return the encoding of a file from its lines that are not ASCII; None: it is UTF-8, or there is doubt.

    There is doubt where some lines are UTF-8 and others are not, and where what is read are no words.
    """
    foreign = [line for line in lines if _decoded(line, "utf-8") is None]
    if not foreign or len(foreign) < 0.9 * sum(not line.isascii() for line in lines):  # a few are both by chance
        return None
    content = b"\n".join(foreign)
    encoding = find_encoding(content)
    decoded = _decoded(content, encoding) or ""
    text = [c for c in decoded if not c.isascii()]
    signs = len(_SIGNS.findall(decoded)) + sum(
        first.islower() and second.isupper() and not second.isascii() for first, second in pairwise(decoded)
    )
    if len(text) < _MIN_LETTERS or signs > _MAX_SIGNS * len(text):
        return None
    return None if any(unicodedata.category(c) in ("Cc", "Cn", "Co") for c in text) else encoding


def conversion(encoding: str, name: str) -> str:
    """Return what to do about text that is not UTF-8; `name` is what errors call its file or stream."""
    command = f"iconv -f {encoding} -t utf-8"
    if name != "standard input":
        command += f" {shlex.quote(name)} > {shlex.quote(f'utf8-{PurePath(name).name}')}"
    return f"this looks like {encoding}: save the file as UTF-8, for instance with `{command}`"


def not_utf8(encoding: str, name: str) -> DataError:
    """Make the error for a whole file or stream in another encoding."""
    return DataError("this is no UTF-8", file=name, line=1, remedy=conversion(encoding, name))


def _decoded(sample: bytes, encoding: str) -> str | None:
    """Decode a sample, None where it is no text of this encoding; a character that is cut at the end is no error."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None


def _ascii_share(sample: bytes, encoding: str) -> float:
    """Return the share of ASCII in a sample, 0 where it holds what text of this encoding doesn't."""
    text = _decoded(sample, encoding) or ""
    if any(unicodedata.category(c) in ("Cc", "Cn", "Co") and c not in "\t\r\n" for c in text):
        return 0.0
    return sum(c.isascii() for c in text) / max(len(text), 1)
