"""Tests of the words around numbers and names."""

from __future__ import annotations

import pytest

from potstill.predict.wording import in_markdown, in_one_line, numbered, printable


def test_counts_agree_with_their_nouns() -> None:
    assert [numbered(count, "class", "classes") for count in (0, 1, 2000)] == ["0 classes", "1 class", "2,000 classes"]
    assert numbered(2, "text") == "2 texts"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Refund_not_showing_up", "Refund_not_showing_up"),  # inside a word it is no markup
        ("__init__", r"\_\_init\_\_"),
        ("*bold* ~old~ [x](y) `z` <none>", r"\*bold\* \~old\~ \[x\](y) \`z\` \<none>"),
        (r"a\b", r"a\\b"),
        ("&lt; R&D", r"\&lt; R&D"),
        (" two\nlines\t", "two lines"),
        ("\x1b[1mred", r"\\u001b\[1mred"),
    ],
)
def test_names_are_no_markup(name: str, shown: str) -> None:
    assert in_markdown(name) == shown


def test_control_characters_are_escaped() -> None:
    text = "a\x1b[2J\x9b\x7f\u202e\ud800é\n\tb"
    assert printable(text) == r"a\u001b[2J\u009b\u007f\u202e\ud800é" + "\n\tb"
    assert in_one_line("a\n\tb") == r"a\n\tb"
