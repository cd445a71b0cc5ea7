"""Where words end among tokens: the places at which two tokenizers' readings of a text can be compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from potstill.tokens import limit

_WORD = re.compile(r"\S+")

_CHUNK = 1024
"""Texts encoded at a time; an `Encoding` is far larger than its ids."""


@dataclass(frozen=True)
class WordEnds:
    """The last token of every word of many texts.

    Attributes:
        places: Index of the token within its text, int32, shape (words,).
        offsets: Where each text's words begin, and the end of the last, int64, shape (texts + 1,).
    """

    places: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def find(cls, tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> Self:
        """Find the words, which white space separates, of texts cut at `max_tokens`; those cut off are left out."""
        limit(tokenizer, max_tokens)
        found: list[NDArray[np.int32]] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            found += map(_word_ends, chunk, tokenizer.encode_batch(chunk))
        return cls(np.concatenate(found), np.cumsum([0, *map(len, found)], dtype=np.int64))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Words per text, (texts,)."""
        return np.diff(self.offsets)

    def first(self, counts: NDArray[np.int64]) -> Self:
        """Keep the first `counts` words of each text, (texts,), no more than it has."""
        within = np.arange(len(self.places)) - np.repeat(self.offsets[:-1], self.counts)
        kept = within < np.repeat(counts, self.counts)
        return type(self)(self.places[kept], np.concatenate([[0], np.cumsum(counts)]))


def _word_ends(text: str, encoding: Encoding) -> NDArray[np.int32]:
    """Return the last token that begins before each word's end: as a rule the one that holds its last character."""
    spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)  # in characters; (0, 0) for special tokens
    real = np.flatnonzero(spans[:, 1] > spans[:, 0])
    if len(real) == 0:
        return real.astype(np.int32)
    ends = np.array([match.end() for match in _WORD.finditer(text)], dtype=np.int64)
    if encoding.overflowing:  # cut: words beyond the last token were not read
        ends = ends[ends <= spans[real, 1].max()]
    # The last token that begins before the word's end. It need not reach it: where characters are composed by the
    # tokenizer, its span may lack the last one.
    last = np.searchsorted(spans[real, 0], ends) - 1
    places: NDArray[np.int32] = real[np.maximum(last, 0)].astype(np.int32)
    return places
