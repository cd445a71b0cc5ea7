"""From texts to token ids: one rule for training and runtime, so that a student sees the same ids in both."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

# A text that came through JSON can hold half of a surrogate pair; it has no UTF-8 form and the tokenizer refuses it.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_CHUNK = 1024
"""Texts encoded at a time: an `Encoding` holds far more than its ids, so only this many are alive at once."""


_MOST_SHARED = 16
_shared: dict[bytes, Tokenizer] = {}


def encode(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_tokens: int,
    *,
    empty_id: int | None,
) -> list[list[int]]:
    """Turn texts into ids, special tokens as the tokenizer's post-processor adds them, cut on the right, not padded.

    Args:
        tokenizer: Its own truncation and padding are overridden, see `limit`.
        texts: The texts.
        pairs: The second text of each, or none.
        max_tokens: Most ids of one text (or pair of texts), special tokens included.
        empty_id: The single id that stands for a text without any token (empty, or of characters that the tokenizer
            drops): a recurrent network can't read a sequence of length 0. Training and runtime pass the padding id.
            None: such a text gets no id.

    Returns:
        One list of at most `max_tokens` ids per text.

    Raises:
        ValueError: `texts` and `pairs` differ in length.
    """
    limit(tokenizer, max_tokens)
    first = [_well_formed(text) for text in texts]
    inputs: Sequence[str | tuple[str, str]] = first
    if pairs is not None:
        inputs = list(zip(first, map(_well_formed, pairs), strict=True))
    ids: list[list[int]] = []
    nothing = [] if empty_id is None else [empty_id]
    for start in range(0, len(inputs), _CHUNK):
        chunk = list(inputs[start : start + _CHUNK])
        ids.extend(encoding.ids or nothing for encoding in tokenizer.encode_batch_fast(chunk))
    return ids


def limit(tokenizer: Tokenizer, max_tokens: int) -> None:
    """Make `tokenizer` cut on the right at `max_tokens` and pad nothing.

    A tokenizer that is set so already is not touched: after a first call, encoding is safe from several threads.
    """
    wanted = {"max_length": max_tokens, "stride": 0, "strategy": "longest_first", "direction": "right"}
    if tokenizer.truncation != wanted:
        tokenizer.enable_truncation(max_tokens, stride=0, strategy="longest_first", direction="right")
    if tokenizer.padding is not None:
        tokenizer.no_padding()


def part_pairs(tokenizer: Tokenizer, separator: str) -> None:
    """Make `tokenizer` put one of its tokens between the texts of a pair, unless it adds some there anyway.

    Without any, ("a b", "c") and ("a", "b c") would be the same to whoever reads the ids.
    """
    if tokenizer.num_special_tokens_to_add(True) == 0:
        tokenizer.post_processor = TemplateProcessing(
            single="$A",
            pair=f"$A {separator} $B",
            special_tokens=[(separator, tokenizer.token_to_id(separator))],
        )


def shared(tokenizer: Tokenizer, max_tokens: int) -> Tokenizer:
    """Return the instance that was shared first among those equal to `tokenizer`, cut at `max_tokens`, padding off.

    `tokenizers` (0.23) keeps the words that a tokenizer has met, up to ten thousand, until the process ends, also when
    the tokenizer is gone: a process that makes the same one again and again would grow without end.
    """
    limit(tokenizer, max_tokens)
    content = hashlib.sha256(tokenizer.to_str().encode("utf-8")).digest()
    found = _shared.setdefault(content, tokenizer)
    while len(_shared) > _MOST_SHARED:
        _shared.pop(next(iter(_shared)), None)
    return found


def _well_formed(text: str) -> str:
    return _LONE_SURROGATE.sub(_REPLACEMENT, text)
