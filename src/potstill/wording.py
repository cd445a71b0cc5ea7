"""Words around numbers and names."""

from __future__ import annotations

import re
from typing import Final

_MARKUP: Final = re.compile(r"[\\`*~\[\]<]|\b_+|_+\b|&(?=#?\w+;)")
"""What Markdown would take for more than a character."""


def numbered(count: int, noun: str, plural: str = "") -> str:
    """Write a count and what is counted: 1 text, 2,000 texts; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def in_markdown(name: str) -> str:
    """Write a name that comes from the user's data so that Markdown shows it as it is, in one line."""
    return _MARKUP.sub(lambda found: "".join(f"\\{character}" for character in found[0]), " ".join(name.split()))
