"""Which texts equal or nearly equal a held-out one: they have no place in a transfer set."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Indel

CHUNK = 256
"""Texts compared at a time. They are of about one length, and the fewer, the fewer held-out texts come near in length:
with 1,400 of these, 256 is more than twice as fast as all at once."""
CELLS = 2**24
"""Similarities held at a time, at most: 64 MiB of float32. Only more than 65,536 held-out texts make chunks smaller."""
TOLERANCE = 1e-6
"""What a likeness may lack for rounding, so that "at least" includes the bound: rapidfuzz rounds its cutoff to float32,
and takes about half of the pairs that just reach it for pairs that miss it. Between a bound of two decimals and a
likeness below it there is more than this, unless the two texts have 10,000 characters together."""


def near(texts: Sequence[str], held_out: Sequence[str], similarity: float) -> NDArray[np.bool_]:
    """Tell which texts are like at least one held-out text.

    Likeness is the normalised indel similarity of the normal forms (`normal_form`): 1 - (insertions + deletions) /
    (sum of both lengths), in characters, which is twice the longest common subsequence over both lengths. Of ten words
    of equal length, one replaced or moved leaves about 0.9, one left out 0.95. It is never less than the normalised
    Levenshtein similarity (to which a moved word is two changed ones): where they differ, this one drops more. And
    rapidfuzz computes it in a third of the time.

    Args:
        texts: Texts to judge.
        held_out: Texts that nothing may be like.
        similarity: From which likeness on, above 0 and at most 1. 1: the normal forms are equal.

    Returns:
        Whether each text is like a held-out one, shape (texts,).
    """
    found = np.zeros(len(texts), dtype=np.bool_)
    forms, order, lengths = _by_length(texts)
    held_forms, _, held_lengths = _by_length(held_out)
    floor = similarity - TOLERANCE
    # The longer text has at least the difference of the lengths to insert: likeness <= 2 shorter / (shorter + longer).
    reach = max(floor / (2 - floor), TOLERANCE)  # of the longer's length, what the shorter has to have
    rows = max(1, min(CHUNK, CELLS // max(1, len(held_forms))))
    for start in range(0, len(forms), rows):
        chunk = slice(start, start + rows)
        shortest, longest = lengths[chunk][[0, -1]]
        first = np.searchsorted(held_lengths, shortest * reach, side="left")
        last = np.searchsorted(held_lengths, longest / reach, side="right")
        if first < last:
            likeness = process.cdist(
                forms[chunk],
                held_forms[first:last],
                scorer=Indel.normalized_similarity,
                score_cutoff=floor,  # what is below becomes 0
                dtype=np.float32,
                workers=1,
            )  # (rows, last - first)
            found[order[chunk]] = likeness.any(axis=1)
    return found


def normal_form(text: str) -> str:
    """Return the text without what does not make it another: compatibility forms, case, punctuation and white space.

    Punctuation becomes a space and runs of spaces become one. Symbols such as "+" and "$" stay.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_SPACED).split())


class _Spaced(dict[int, str]):
    """For `str.translate`: punctuation to spaces, all else to itself; looks a character up once."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = " " if unicodedata.category(character).startswith("P") else character
        return self[code]


_SPACED = _Spaced()


def _by_length(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return the normal forms from short to long, the texts' indices in that order, and the lengths."""
    forms = [normal_form(text) for text in texts]
    lengths = np.array([len(form) for form in forms], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    return [forms[index] for index in order], order, lengths[order]
