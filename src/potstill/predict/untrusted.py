"""Checks of a model's files before they are used: a directory may come from anyone. No file may cost endless time."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from typing import Any, Final

from tokenizers import Tokenizer

_INNER: Final = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node"},
    "function": {7: "node"},
    "node": {5: "attribute"},
}
"""Numbers of the fields that lead to nodes and their attributes.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3"""
_GRAPHS: Final = (6, 11)
"""Numbers of an attribute's fields that hold graphs: the bodies of Loop, Scan and If."""
_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5
"""Kinds of fields that ONNX uses. https://protobuf.dev/programming-guides/encoding/"""
_MAX_STEPS: Final = 100
_MAX_GROWTH: Final = 100
"""Most characters that a normaliser may make of one; those of SentencePiece make 18, and some add a character."""
_MAX_WORD: Final = 1000
"""WordPiece takes quadratic time for words up to its own limit, which is 100 in all known tokenizers."""


def has_inner_graphs(model: bytes) -> bool:
    """Say whether a serialised ONNX model has nodes with graphs of their own, which can run without end.

    Raises:
        ValueError: It is no message of protocol buffers.
    """
    waiting = [("model", memoryview(model))]
    while waiting:
        kind, message = waiting.pop()
        for number, content in _fields(message):
            if kind == "attribute" and number in _GRAPHS:
                return True
            if inner := _INNER.get(kind, {}).get(number):
                waiting.append((inner, content))
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of each field; of numbers no content."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(key & 7, 0)
        if key & 7 == _VARINT:
            _, place = _varint(message, place)
        elif key & 7 == _SIZED:
            size, place = _varint(message, place)
        elif not size:
            raise ValueError(f"unknown kind of field {key & 7}")
        if place + size > len(message) or key >= 1 << 32:
            raise ValueError("a field is cut short")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte, the lowest first; returns the place behind it too."""
    value = 0
    for shift, byte in enumerate(message[place : place + 10]):
        value |= (byte & 127) << (7 * shift)
        if byte < 128:
            return value, place + shift + 1
    raise ValueError("a number is cut short")


def tokenizer_problem(tokenizer: Tokenizer, vocab_size: int, max_length: int) -> tuple[str, object] | None:
    """Return what was expected and found where a tokenizer can't be a student's, or could take endless memory or time.

    Args:
        tokenizer: Newly read: serialised, one with huge ids would take all memory.
        vocab_size: Ids that the student knows. Fewer tokens are fine: some models' embeddings have rows to spare.
        max_length: Most tokens that the student reads.
    """
    if (found := max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1) > vocab_size:
        return f"at most {vocab_size} tokens", found
    if tokenizer.normalizer and (growth := _growth(json.loads(tokenizer.normalizer.__getstate__()))) > _MAX_GROWTH:
        return f"a normaliser that makes at most {_MAX_GROWTH} characters of one", f"{growth:.3g}"
    if (found := getattr(tokenizer.model, "max_input_chars_per_word", 0)) > _MAX_WORD:
        return f"max_input_chars_per_word of at most {_MAX_WORD}", found
    tokenizer.no_truncation()
    added = tokenizer.encode("", "").ids + tokenizer.encode("").ids
    if len(added) > 2 * max_length or max(added, default=0) >= vocab_size:
        return f"special tokens that fit into {max_length}, with ids below {vocab_size}", added[:10]
    return None


def _growth(normalizer: dict[str, Any]) -> float:
    """Return how many characters a normaliser makes of one, at most."""
    match normalizer:
        case {"type": "Sequence", "normalizers": steps}:
            return math.prod(map(_growth, steps)) if len(steps) <= _MAX_STEPS else math.inf
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": content} if pattern:
            return max(1.0, len(content) / len(pattern))
        case {"type": "Replace", "content": added} | {"type": "Prepend", "prepend": added}:
            return 1.0 + len(added)  # an empty match adds to a character
        case {"type": "Precompiled", "precompiled_charsmap": table}:
            # The size of a trie, the trie, and the strings to which it leads, each with a NUL behind it.
            content = base64.b64decode(table)
            strings = content[4 + int.from_bytes(content[:4], "little") :].split(b"\0")
            return float(max(len(string.decode("utf-8", "replace")) for string in strings))
    return 1.0  # Unicode's forms, lower case, stripping
