"""English as the corpus needs it: function words, and the ending -s."""

from __future__ import annotations

from typing import Final

VOWELS: Final = "aeiou"

_FUNCTION_WORDS = (
    "a, an, the, this, these, that, those, every, each, one, two, three, five, many, several, few, all, both, "
    "most, some, any, no, much, i, he, she, it, they, we, me, him, her, them, us, himself, herself, themselves, "
    "there, who, which, what, whether, how, of, in, by, to, and, but, because, before, after, than, as, too, very, "
    "so, more, not, never, ever, always, often, neither, yesterday, is, are, was, were, be, has, have, had, did, "
    "will, would, can, could, should, must, wasn't, hasn't, didn't"
)
FUNCTION_WORDS: Final = frozenset(_FUNCTION_WORDS.split(", "))
"""Closed-class words, and the few adverbs of time that behave like them."""


def with_s(word: str) -> str:
    """Add the ending that marks plural nouns and third person verbs alike."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if ends_in_consonant_y(word):
        return word[:-1] + "ies"
    return word + "s"


def ends_in_consonant_y(word: str) -> bool:
    """Tell "carry" from "destroy"."""
    return word.endswith("y") and word[-2] not in VOWELS
