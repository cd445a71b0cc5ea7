"""Texts that equal or nearly equal a held-out one: they are left out of an unlabelled set."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Indel

CHUNK: Final = 256
"""Texts compared at a time. They are of about one length, so that only held-out texts of like length are compared: with
1,400 of these, 256 is more than twice as fast as all at once."""
CELLS: Final = 2**24
"""Most similarities held at a time: 64 MiB of float32. Only more than 65,536 held-out texts make chunks smaller."""
TOLERANCE: Final = 1e-6
"""Subtracted from the bound, so that "at least" includes it: rapidfuzz rounds its cutoff to float32."""
_ASCII_PUNCTUATION: Final = {code: " " for code in range(128) if unicodedata.category(chr(code)).startswith("P")}


def near_duplicates(texts: Sequence[str], held_out: Sequence[str], similarity: float) -> NDArray[np.bool_]:
    """Find the texts that are like at least one held-out text.

    Likeness is the normalised indel similarity of the normal forms (`normal_form`): 1 - (insertions + deletions) /
    (sum of both lengths), in characters, which is twice the longest common subsequence over both lengths. Of ten words
    of equal length, one replaced or moved leaves about 0.9, one left out 0.95. It is never less than the normalised
    Levenshtein similarity, and rapidfuzz computes it in a third of the time.

    `similarity`, above 0 and at most 1, is the smallest likeness that counts; 1: the normal forms are equal. Returns
    whether each text is like a held-out one, (texts,).
    """
    return similar_counts(texts, held_out, similarity) > 0


def similar_counts(texts: Sequence[str], others: Sequence[str], similarity: float) -> NDArray[np.int64]:
    """Count how many `others` each text is like, (texts,); see `near_duplicates`."""
    found = np.zeros(len(texts), dtype=np.int64)
    forms, order, lengths = _by_length(texts)
    other_forms, _, other_lengths = _by_length(others)
    floor = similarity - TOLERANCE
    # The longer text has at least the difference of the lengths to insert: likeness <= 2 shorter / (shorter + longer).
    reach = max(floor / (2 - floor), TOLERANCE)  # smallest ratio of the lengths, shorter / longer
    rows = max(1, min(CHUNK, CELLS // max(1, len(other_forms))))
    for start in range(0, len(forms), rows):
        chunk = slice(start, start + rows)
        shortest, longest = lengths[chunk][[0, -1]]
        first = np.searchsorted(other_lengths, shortest * reach, side="left")
        last = np.searchsorted(other_lengths, longest / reach, side="right")
        if first < last:
            likeness = process.cdist(
                forms[chunk],
                other_forms[first:last],
                scorer=Indel.normalized_similarity,
                score_cutoff=floor,  # what is below becomes 0
                dtype=np.float32,
                workers=1,
            )  # (rows, last - first)
            found[order[chunk]] = np.count_nonzero(likeness, axis=1)
    return found


def joined(item: tuple[str, str | None]) -> str:
    """Return a text, or both of a pair in one, to compare it with others."""
    return " ".join(filter(None, item))


def normal_form(text: str) -> str:
    """Return the text in lower case, in compatibility forms, with a single space for punctuation and white space.

    Symbols such as "+" and "$" stay.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    spaced = folded.translate(_ASCII_PUNCTUATION)
    if not spaced.isascii():
        spaced = "".join(" " if unicodedata.category(c).startswith("P") else c for c in spaced)
    return " ".join(spaced.split())


def _by_length(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return the normal forms from short to long, the texts' indices in that order, and the lengths."""
    forms = [normal_form(text) for text in texts]
    lengths = np.array([len(form) for form in forms], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    return [forms[index] for index in order], order, lengths[order]
