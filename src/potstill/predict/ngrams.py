"""Hashed n-grams of a text: its words, pairs of words and short pieces of words, as rows of one table.

They are what a linear model on TF-IDF reads, and hashing needs no vocabulary (Weinberger et al. 2009, "Feature Hashing
for Large Scale Multitask Learning", arXiv 0902.2206; Joulin et al. 2017, "Bag of Tricks for Efficient Text
Classification", arXiv 1607.01759). Many texts are hashed at once: all their characters are in one array, and a
polynomial hash of any part of it is the difference of two prefix sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from potstill.predict.directory import LongTexts
from potstill.predict.tokens import CHARACTERS_A_TOKEN, padded_places, portions

LENGTHS: Final = (2, 3, 4, 5)
"""Lengths of the pieces, in characters."""

_SPACE: Final = 32
_BETWEEN: Final = "\n"
"""Between the texts of a pair. No text holds one: its white space is replaced by spaces."""
_BASE: Final = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE: Final = pow(_BASE, -1, 2**64)
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)  # of the finaliser of splitmix64
_AT_ONCE: Final = 1 << 15
"""Characters of one pass: so few stay in a processor's cache."""
_PUNCTUATION: Final = np.array([not (chr(code).isalnum() or chr(code) == "'") for code in range(128)])
"""Of each character of ASCII, whether it ends a word; the apostrophe does not."""

_Hashed = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Ngrams:
    """N-grams of many texts, end to end.

    Attributes:
        rows: Of each n-gram its row in the table, int32, (ngrams,).
        weights: How much it counts, float32, (ngrams,): 1 / sqrt(n) for n n-grams of its kind (words, or pieces) in its
            text, so that both kinds, and long and short texts, count alike.
        offsets: Where each text begins, and the end of the last, int64, (texts + 1,). An empty text has no n-grams.
    """

    rows: NDArray[np.int32]
    weights: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def padded(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return rows and weights of some texts, (texts, ngrams); on the right any row, of weight 0, fills them up."""
        if not len(self.rows):  # only empty texts
            return np.zeros((len(indices), 1), np.int64), np.zeros((len(indices), 1), np.float32)
        places, is_real = padded_places(self.offsets, indices)
        return self.rows[places].astype(np.int64), np.where(is_real, self.weights[places], np.float32(0))


def hash_ngrams(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    buckets: int,
    max_length: int,
    long_texts: LongTexts = "head",
) -> Ngrams:
    """Hash the n-grams of texts into the rows of a table.

    A text's n-grams are its words, each two neighbouring words, and all pieces of 2 to 5 characters within a word and
    the spaces around it. Upper and lower case are the same. The n-grams of a pair's second text have rows of their own.

    Args:
        texts: The texts.
        pairs: The second text of each, or none.
        buckets: Rows of the table, a power of two.
        max_length: The student's; a text is cut to `CHARACTERS_A_TOKEN` times so many characters.
        long_texts: Where it is cut; see `tokens.encode_marked`.
    """
    most = CHARACTERS_A_TOKEN * max_length
    if pairs is None and long_texts == "head-tail":
        half = most // 2
        texts = [text if len(text) <= most else f"{text[: half - 1]} {text[-half:]}" for text in texts]
    framed = [_framed(text, most) for text in texts]
    if pairs is not None:
        framed = [f"{first}{_BETWEEN}{_framed(second, most)}" for first, second in zip(framed, pairs, strict=True)]
    parts = [(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(1, np.int64))]  # the last is the first offset
    at_once = portions(map(len, framed), len(framed), _AT_ONCE)
    parts += [_hash_together(framed[part], buckets, in_pairs=pairs is not None) for part in at_once]
    rows, weights, counts = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Ngrams(rows, weights, counts.cumsum())


def _hash_together(texts: Sequence[str], buckets: int, *, in_pairs: bool) -> _Hashed:
    """Hash some framed texts at once; returns rows and weights, end to end, and how many n-grams each text has."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    owners = np.repeat(np.arange(len(texts), dtype=np.int32), [len(text) for text in texts])
    size = len(codes)
    powers = np.full(size, _BASE, np.uint64).cumprod()
    inverses = np.full(size, _INVERSE, np.uint64).cumprod()
    sums = np.concatenate([np.zeros(1, np.uint64), ((codes + np.uint64(1)) * powers).cumsum()])

    is_space = codes <= _SPACE
    is_gap = is_space.copy()
    ascii_places = np.flatnonzero(codes < 128)
    is_gap[ascii_places] = _PUNCTUATION[codes[ascii_places].astype(np.intp)]
    starts = np.flatnonzero(is_gap[:-1] & ~is_gap[1:]) + 1
    ends = np.flatnonzero(~is_gap[:-1] & is_gap[1:]) + 1
    sides = owners.astype(np.int64)  # another number for each text, and for both texts of a pair
    is_second = np.zeros(0, np.uint64)
    if in_pairs:
        seen = (codes == ord(_BETWEEN)).cumsum(dtype=np.int64)
        is_second = (seen - sides).astype(np.uint64)  # each earlier text holds one
        sides += seen
    together = sides[starts[:-1]] == sides[starts[1:]]
    parts = [(starts, ends), (starts[:-1][together], ends[1:][together])]
    spaces = np.concatenate([[0], is_space.cumsum()])
    in_text = ~(is_space[:-1] & is_space[1:])  # two spaces are the end of one text and the beginning of another
    for length in LENGTHS:
        inside = spaces[length - 1 : size] - spaces[1 : size - length + 2]  # without the first and the last character
        begin = np.flatnonzero((inside == 0) & in_text[: size - length + 1])
        parts.append((begin, begin + length))

    rows = []
    for kind, (begin, end) in enumerate(parts):
        values = (sums[end] - sums[begin]) * inverses[begin]
        values ^= np.uint64(min(kind, 2))  # a word is another feature than the piece of the same characters
        if in_pairs:
            values ^= is_second[begin] * _MIX
        values ^= values >> np.uint64(31)
        values *= _MIX
        rows.append((values >> np.uint64(65 - buckets.bit_length())).astype(np.int32))
    counts = np.zeros((2, len(texts)), np.int64)  # of words and pairs of words, and of pieces
    weights = []
    found = [owners[begin] for begin, _ in parts]
    for kind, of_kind in enumerate((found[:2], found[2:])):
        counts[kind] = sum(np.bincount(owner, minlength=len(texts)) for owner in of_kind)
        weights += [counts[kind][owner] for owner in of_kind]
    order = np.argsort(np.concatenate(found), kind="stable")
    scale = (1 / np.sqrt(np.concatenate(weights)[order])).astype(np.float32)
    total: NDArray[np.int64] = counts.sum(axis=0)
    return np.concatenate(rows)[order], scale, total


def _framed(text: str, most: int) -> str:
    """Return at most so many characters of a text: in lower case, single spaces between words and on both sides."""
    return f" {' '.join(text[:most].lower().split())} "
