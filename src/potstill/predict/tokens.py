"""From texts to token ids: one rule for training and prediction, so that a student sees the same ids in both."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from tokenizers.processors import TemplateProcessing

from potstill.errors import ArtifactError
from potstill.predict.directory import LongTexts

# A text that came through JSON can hold half of a surrogate pair; it has no UTF-8 form and the tokenizer refuses it.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LAST_WORD = re.compile(r"\s\S*\Z")
_FIRST_WORD = re.compile(r"\A\S*\s")

CHARACTERS_A_TOKEN: Final = 16
"""Characters of a text that are looked at for each token of `max_length`: more than tokens have, so that texts are
seldom cut, and one long text does not take all memory."""
_AT_ONCE: Final = 1 << 18
"""Characters encoded at a time, in at most `_CHUNK` texts: an `Encoding` takes 70 bytes or more for each."""
_CHUNK: Final = 1024
_SHORT: Final = 1024
"""Characters of a text that is encoded whole in any case."""

_MAX_INTERNED = 16
_interned: dict[bytes, Tokenizer] = {}


def encode_marked(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    *,
    empty_id: int | None,
    long_texts: LongTexts = "head",
) -> tuple[list[list[int]], list[bool]]:
    """Turn texts into ids, special tokens as the tokenizer's post-processor adds them, cut, not padded.

    A text that spells a special token (`<pad>`) is text like any other: it never becomes that token's id.

    Args:
        tokenizer: Its own truncation and padding are overridden, see `set_truncation`.
        texts: The texts.
        pairs: The second text of each, or none.
        max_length: Most ids of one text (or pair of texts), special tokens included.
        empty_id: The single id of a text without any token (empty, or of characters that the tokenizer drops), since a
            recurrent network can't read a sequence of length 0; None: no id.
        long_texts: `head`: long texts are cut on the right. `head-tail`: they are cut in the middle, so that the first
            and the last half of `max_length` are left (Sun et al. 2019, "How to fine-tune BERT for text
            classification", arXiv 1905.05583, "Dealing with long texts"). Pairs are cut on the right in any case.

    Returns:
        The ids of each text (or pair), and whether it was cut.

    Raises:
        ValueError: `texts` and `pairs` differ in length.
    """
    ids: list[list[int]] = []
    cut: list[bool] = []
    nothing = [] if empty_id is None else [empty_id]
    for encoding, cut_off in encodings(tokenizer, texts, pairs, max_length, long_texts):
        ids.append(encoding.ids or nothing)
        cut.append(cut_off > 0)
    return ids, cut


def encodings(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    long_texts: LongTexts = "head",
) -> Iterator[tuple[Encoding, int]]:
    """Yield what the tokenizer makes of each text (or pair), and how many tokens were cut off it.

    Arguments and errors as for `encode_marked`.
    """
    if pairs is not None and len(texts) != len(pairs):
        raise ValueError(f"expected as many second texts as first ones, found {len(pairs)} and {len(texts)}")
    set_truncation(tokenizer, max_length)
    for part in portions(read_sizes(texts, pairs, max_length), _CHUNK, _AT_ONCE):
        if pairs is None and long_texts == "head-tail":
            yield from _encode_ends(tokenizer, texts[part], max_length)
        elif pairs is None:
            found = _encode(tokenizer, texts[part], max_length, special=True)
            yield from ((one, count - len(one.ids)) for one, count in found)
        else:
            yield from _encode_pairs(tokenizer, texts[part], pairs[part], max_length)


def read_sizes(texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> Iterator[int]:
    """Yield of each text, or pair, how many characters are looked at."""
    most = max(CHARACTERS_A_TOKEN * max_length, _SHORT)
    return (sum(min(len(text), most) for text in item) for item in zip(texts, *([pairs] if pairs else []), strict=True))


def portions(sizes: Iterable[int], most: int, total: int) -> Iterator[slice]:
    """Cut items of these sizes into portions of at most `most` items, and of at most `total` unless it is one item."""
    start = end = held = 0
    for end, size in enumerate(sizes, start=1):
        place = end - 1
        if place > start and (held + size > total or place - start == most):
            yield slice(start, place)
            start, held = place, 0
        held += size
    if end > start:
        yield slice(start, end)


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


@contextmanager
def explained_panics() -> Iterator[None]:
    """Turn a panic of `tokenizers`, which is no Exception, into an ArtifactError.

    A regular expression that has gone back ten million times at one place of a text ends so.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ArtifactError(
            f"expected tokens from the model's tokenizer, found: {error}\n"
            "  what to do: correct the regular expressions in its tokenizer.json, or use another tokenizer"
        ) from None


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


def _encode(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int, *, special: bool
) -> list[tuple[Encoding, int]]:
    """Encode the beginnings of texts: as much as decides the first `max_length` tokens.

    A beginning ends at white space if it can, and holds twice as many tokens, so that the tokens near its end, which
    could differ from those of the whole text, are not read. Where it holds fewer, twice as much of the text is encoded.

    Returns:
        What is read of each text, and how many tokens the whole text has, estimated if it was not encoded as a whole.
    """

    def beginnings(of: Sequence[str], size: int) -> list[tuple[Encoding, int]]:
        cut = [_beginning(text, size) for text in of]
        with explained_panics():
            found = tokenizer.encode_batch_fast(_readable(tokenizer, cut), add_special_tokens=special)
        return [(one, _count(one, added)) for one in found]

    added = tokenizer.num_special_tokens_to_add(False) if special else 0
    enough = max(CHARACTERS_A_TOKEN * max_length, _SHORT)
    encodings = beginnings(texts, enough)
    for place, text in enumerate(texts):
        size = enough
        while len(text) > size and encodings[place][1] < 2 * max_length:
            size *= 2
            (encodings[place],) = beginnings([text], size)
        if len(text) > size:
            one, count = encodings[place]
            encodings[place] = one, round(count * len(text) / size)
    return encodings


def _encode_ends(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> Iterator[tuple[Encoding, int]]:
    """Encode the beginnings and the ends of texts, half of `max_length` each; count what is left out between them."""
    room = max(max_length - tokenizer.num_special_tokens_to_add(False), 0)
    for text, (one, count) in zip(texts, _encode(tokenizer, texts, max_length, special=False), strict=True):
        if lost := max(count - room, 0):
            ending = _ending(text, max(CHARACTERS_A_TOKEN * max_length, _SHORT))
            with explained_panics():
                tail = tokenizer.encode_batch_fast(_readable(tokenizer, [ending]), add_special_tokens=False)[0]
            # The last two of the pieces that the tokenizer cuts a text into hold its last `max_length` tokens.
            tail = Encoding.merge([tail, *tail.overflowing][-2:], growing_offsets=False)
            one.truncate(room - room // 2)
            tail.truncate(room // 2, direction="left")
            one = Encoding.merge([one, tail], growing_offsets=False)
        yield tokenizer.post_process(one), lost


def _beginning(text: str, size: int) -> str:
    """Return at most `size` characters of a text, up to its last white space in their second half."""
    if len(text) <= size:
        return text
    return text[: size // 2] + _LAST_WORD.sub("", text[size // 2 : size])


def _ending(text: str, size: int) -> str:
    """Return at most `size` characters of a text, from its first white space in their first half on."""
    if len(text) <= size:
        return text
    return _FIRST_WORD.sub("", text[-size : -(size // 2)]) + text[-(size // 2) :]


def _count(encoding: Encoding, added: int) -> int:
    """Count the tokens of a text before it was cut; each piece of it has so many `added` special ones."""
    return len(encoding.ids) + sum(len(rest.ids) - added for rest in encoding.overflowing)


def _encode_pairs(
    tokenizer: Tokenizer, first: Sequence[str], second: Sequence[str], max_length: int
) -> Iterator[tuple[Encoding, int]]:
    """Encode the texts of pairs one by one, cut the longer one first, join them, and count what was cut off.

    `tokenizers` (0.23) keeps what it cuts off a pair, in all combinations of a piece of the one text with a piece of
    the other: two texts of 2,000 words take 3 GB.
    """
    room = max(max_length - tokenizer.num_special_tokens_to_add(True), 0)
    for (one, length), (other, other_length) in zip(
        _encode(tokenizer, first, max_length, special=False),
        _encode(tokenizer, second, max_length, special=False),
        strict=True,
    ):
        lost = max(length + other_length - room, 0)
        if lost:  # as `tokenizers` does: the shorter text keeps up to half of the room
            shorter = min(length, other_length, room // 2)
            kept = (shorter, room - shorter) if length <= other_length else (room - shorter, shorter)
            one.truncate(kept[0])
            other.truncate(kept[1])
        yield tokenizer.post_process(one, other), lost


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
            single="$A", pair=f"$A {separator} $B", special_tokens=[(separator, tokenizer.token_to_id(separator))]
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
