"""From texts to token ids: one rule for training and prediction, so that a student sees the same ids in both."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from tokenizers.processors import TemplateProcessing

# A text that came through JSON can hold half of a surrogate pair; it has no UTF-8 form and the tokenizer refuses it.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_CHUNK = 1024
"""Texts encoded at a time: an `Encoding` holds far more than its ids."""

_MAX_INTERNED = 16
_interned: dict[bytes, Tokenizer] = {}


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int, *, empty_id: int | None
) -> list[list[int]]:
    """Turn texts into ids, special tokens as the tokenizer's post-processor adds them, cut on the right, not padded.

    A text that spells a special token (`<pad>`) is text like any other: it never becomes that token's id.

    Args:
        tokenizer: Its own truncation and padding are overridden, see `set_truncation`.
        texts: The texts.
        pairs: The second text of each, or none.
        max_length: Most ids of one text (or pair of texts), special tokens included.
        empty_id: The single id of a text without any token (empty, or of characters that the tokenizer drops), since a
            recurrent network can't read a sequence of length 0; None: no id.

    Raises:
        ValueError: `texts` and `pairs` differ in length.
    """
    return encode_marked(tokenizer, texts, pairs, max_length, empty_id=empty_id)[0]


def encode_marked(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int, *, empty_id: int | None
) -> tuple[list[list[int]], list[bool]]:
    """Encode like `encode`, and say of each text (or pair) whether it was cut."""
    ids: list[list[int]] = []
    cut: list[bool] = []
    nothing = [] if empty_id is None else [empty_id]
    for encoding, cut_off in encodings(tokenizer, texts, pairs, max_length):
        ids.append(encoding.ids or nothing)
        cut.append(cut_off > 0)
    return ids, cut


def encodings(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> Iterator[tuple[Encoding, int]]:
    """Yield what the tokenizer makes of each text (or pair), and how many tokens were cut off it.

    Arguments and errors as for `encode`.
    """
    if pairs is not None and len(texts) != len(pairs):
        raise ValueError(f"expected as many second texts as first ones, found {len(pairs)} and {len(texts)}")
    set_truncation(tokenizer, max_length)
    special = tokenizer.num_special_tokens_to_add(False)
    for start in range(0, len(texts), _CHUNK):
        part = slice(start, start + _CHUNK)
        first = _readable(tokenizer, texts[part])
        if pairs is None:
            found = tokenizer.encode_batch_fast(first)
            lost = [sum(len(rest.ids) - special for rest in one.overflowing) for one in found]
        else:
            found, lost = _encode_pairs(tokenizer, first, _readable(tokenizer, pairs[part]), max_length)
        yield from zip(found, lost, strict=True)


def padded_places(
    offsets: NDArray[np.int64], indices: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Find the entries of some texts in an array that holds those of all texts, end to end.

    Args:
        offsets: Where each text begins, and the end of the last, (texts + 1,).
        indices: The texts.

    Returns:
        The place of each entry, (texts, length), and whether it is real; on the right, the place of the array's first
        entry fills shorter texts up.
    """
    starts = offsets[indices]
    counts = offsets[indices + 1] - starts
    column = np.arange(max(counts.max(), 1))
    is_real = column < counts[:, None]
    return np.where(is_real, starts[:, None] + column, 0), is_real


def _readable(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Replace what the tokenizer would refuse or misread.

    `encode_special_tokens` keeps `tokenizers` from cutting special tokens out of a text; a model (Unigram, WordLevel)
    whose own vocabulary holds them finds them all the same, unless a space parts them.
    """
    found = [_LONE_SURROGATE.sub(_REPLACEMENT, text) for text in texts]
    special = [one.content for one in tokenizer.get_added_tokens_decoder().values() if one.special]
    everything = "\n".join(found)
    for name in special:
        if len(name) > 1 and name in everything and name in tokenizer.encode(name, add_special_tokens=False).tokens:
            found = [text.replace(name, f"{name[0]} {name[1:]}") for text in found]
    return found


def _encode_pairs(
    tokenizer: Tokenizer, first: list[str], second: list[str], max_length: int
) -> tuple[list[Encoding], list[int]]:
    """Encode the texts of pairs one by one, cut the longer one first, join them, and count what was cut off.

    `tokenizers` (0.23) keeps what it cuts off a pair, in all combinations of a piece of the one text with a piece of
    the other: two texts of 2,000 words take 3 GB.
    """
    room = max(max_length - tokenizer.num_special_tokens_to_add(True), 0)
    encodings: list[Encoding] = []
    lost: list[int] = []
    for one, other in zip(
        tokenizer.encode_batch_fast(first, add_special_tokens=False),
        tokenizer.encode_batch_fast(second, add_special_tokens=False),
        strict=True,
    ):
        lengths = [len(text.ids) + sum(len(rest.ids) for rest in text.overflowing) for text in (one, other)]
        lost.append(max(sum(lengths) - room, 0))
        if lost[-1]:  # as `tokenizers` does: the shorter text keeps up to half of the room
            shorter = min(*lengths, room // 2)
            kept = (shorter, room - shorter) if lengths[0] <= lengths[1] else (room - shorter, shorter)
            one.truncate(kept[0])
            other.truncate(kept[1])
        encodings.append(tokenizer.post_process(one, other))
    return encodings, lost


def set_truncation(tokenizer: Tokenizer, max_length: int) -> None:
    """Make `tokenizer` cut on the right at `max_length`, pad nothing, and read special tokens in texts as text.

    A tokenizer that is set so already is not touched: after a first call, encoding is safe from several threads.
    """
    wanted = {"max_length": max_length, "stride": 0, "strategy": "longest_first", "direction": "right"}
    if tokenizer.truncation != wanted:
        tokenizer.enable_truncation(max_length, stride=0, strategy="longest_first", direction="right")
    if tokenizer.padding is not None:
        tokenizer.no_padding()
    if not tokenizer.encode_special_tokens:
        tokenizer.encode_special_tokens = True


def set_pair_separator(tokenizer: Tokenizer, separator: str) -> None:
    """Make `tokenizer` put one of its tokens between the texts of a pair, unless it adds some there anyway.

    Without any, ("a b", "c") and ("a", "b c") would give the same ids.
    """
    if tokenizer.num_special_tokens_to_add(True) == 0:
        tokenizer.post_processor = TemplateProcessing(
            single="$A",
            pair=f"$A {separator} $B",
            special_tokens=[(separator, tokenizer.token_to_id(separator))],
        )


def intern_tokenizer(tokenizer: Tokenizer, max_length: int) -> Tokenizer:
    """Return the first of all equal tokenizers, cut at `max_length`, padding off.

    `tokenizers` (0.23) keeps the words that a tokenizer has met, up to ten thousand, until the process ends, also when
    the tokenizer is gone: a process that makes the same one again and again would grow without end.
    """
    set_truncation(tokenizer, max_length)
    key = hashlib.sha256(tokenizer.to_str().encode("utf-8")).digest()
    found = _interned.setdefault(key, tokenizer)
    while len(_interned) > _MAX_INTERNED:
        _interned.pop(next(iter(_interned)), None)
    return found
