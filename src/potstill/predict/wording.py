"""Words around numbers and names."""

from __future__ import annotations

import re
from typing import Final

_MARKUP: Final = re.compile(r"[\\`*~\[\]<]|\b_+|_+\b|&(?=#?\w+;)")
"""Characters that Markdown would interpret."""

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, characters that reverse the text around them, and halves of characters."""


def numbered(count: int, noun: str, plural: str = "") -> str:
    """Write a count and what is counted: 1 text, 2,000 texts; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def in_markdown(name: str) -> str:
    """Write a name from the user's data so that Markdown shows it unchanged, in one line."""
    return _MARKUP.sub(lambda found: "".join(f"\\{character}" for character in found[0]), " ".join(name.split()))


def printable(text: str) -> str:
    r"""Escape control characters (all but line feed and tab) as `\u001b`, which JSON reads back inside a string."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_one_line(text: str) -> str:
    """Escape line feeds and tabs too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
