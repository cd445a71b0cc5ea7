"""Words around numbers and names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_MARKUP: Final = re.compile(r"[\\`*~\[\]<]|\b_+|_+\b|&(?=#?\w+;)")
"""Characters that Markdown would interpret."""

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, characters that reverse the text around them, and halves of characters."""

_EXPECTED: Final = {
    "string_type": "a text",
    "string_too_long": "a text of at most {max_length} characters",
    "string_pattern_mismatch": "a text that is not empty",
    "list_type": "a list",
    "tuple_type": "a list, such as [a, b]",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
    "model_type": "an object",
    "literal_error": "one of {expected}",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of {ge} or more",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of {le} or less",
}
"""What is expected, by the type of pydantic's error and the details in its context."""


def beginning(text: str, characters: int) -> str:
    """Return a text, or its first characters and an ellipsis where it is longer."""
    return text if len(text) <= characters else f"{text[:characters]} …"


def expected_by(error: Mapping[str, Any]) -> str | None:
    """Say in a few words what a check of pydantic expects; None: it is one of our own, or a rare one."""
    words = _EXPECTED.get(error["type"])
    return None if words is None else words.format_map(error.get("ctx", {}))


def numbered(count: int, noun: str, plural: str = "") -> str:
    """Write a count and what is counted: 1 text, 2,000 texts; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def in_markdown(name: str) -> str:
    """Write a name from the user's data so that Markdown shows it unchanged, in one line."""
    return _MARKUP.sub(
        lambda found: "".join(f"\\{character}" for character in found[0]), printable(" ".join(name.split()))
    )


def printable(text: str) -> str:
    r"""Escape control characters (all but line feed and tab) as `\u001b`, which JSON reads back inside a string."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_one_line(text: str) -> str:
    """Escape line feeds and tabs too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
