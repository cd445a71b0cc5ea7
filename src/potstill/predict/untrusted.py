"""Checks of a model's files before they are used: a directory may come from anyone. No file may cost endless time."""

from __future__ import annotations

import base64
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from potstill.store.atomic import read_json

_INNER: Final = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
}
"""Numbers of the fields that lead to nodes and their attributes.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3"""
_GRAPHS: Final = (6, 11)
"""Numbers of an attribute's fields that hold graphs: the bodies of Loop, Scan and If."""
_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5
"""Kinds of fields that ONNX uses. https://protobuf.dev/programming-guides/encoding/"""
_MAX_FIELDS: Final = 1_000_000
"""Most fields of nodes and attributes; the graphs of students have a few thousand."""
_MAX_STEPS: Final = 100
_MAX_GROWTH: Final = 100
"""Most characters that a tokenizer's steps may make of one; those of SentencePiece make 18, and some add one."""
_HARMLESS: Final = re.compile(
    "NFK?[CD]|Lowercase|Strip(Accents)?|Nmt|BertPreTokenizer|(CharDelimiter|Whitespace)?Split|Whitespace|Digits|"
    "FixedLength|Punctuation|UnicodeScripts"
)
"""Normalisers and pre-tokenizers that make no text longer, but for Unicode's forms and lower case; see `_length`."""
_MAX_WORD: Final = 1000
"""WordPiece takes quadratic time for words up to its own limit, which is 100 in all known tokenizers."""


def has_inner_graphs(model: bytes) -> bool:
    """Say whether a serialised ONNX model has nodes with graphs of their own, which can run without end.

    Raises:
        ValueError: It is no message of protocol buffers, or has too many fields.
    """
    waiting, count = [("model", memoryview(model))], 0
    while waiting:
        kind, message = waiting.pop()
        for number, content in _fields(message):
            if (count := count + 1) > _MAX_FIELDS:
                raise ValueError(f"more than {_MAX_FIELDS:,} fields")
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


def file_problem(path: Path) -> tuple[str, object] | None:
    """Read a tokenizer's file, if there is one, and return the same as `settings_problem`."""
    try:
        return settings_problem(read_json(path)) if path.is_file() else None
    except Exception as error:  # `tokenizers` raises no other kind
        return "a tokenizer that can be read", error


def settings_problem(tokenizer: dict[str, Any]) -> tuple[str, object] | None:
    """Return what was expected and found where a tokenizer's steps could make endless text, or tokens, of a short one.

    Reading the whole tokenizer would normalise its added tokens: `tokenizers` reads it without them first.
    """
    without = tokenizer | {"added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    settings = json.loads(Tokenizer.from_str(json.dumps(without)).to_str())
    steps = [*_steps(settings, "normalizer", "normalizers"), *_steps(settings, "pre_tokenizer", "pretokenizers")]
    growth = math.prod(map(_growth, steps)) if len(steps) <= _MAX_STEPS else math.inf
    if growth > _MAX_GROWTH:
        expected = "a normaliser and a pre-tokenizer of known types that make at most"
        return f"{expected} {_MAX_GROWTH} characters of one", f"{growth:.3g}"
    adding = [step for step in _steps(settings, "post_processor", "processors") if step["type"] != "ByteLevel"]
    if len(adding) > 1 or not all(map(_takes_once, adding)):
        return "a post-processor that takes each text once", str(adding)[:100]
    return None


def tokenizer_problem(tokenizer: Tokenizer, vocab_size: int, max_length: int) -> tuple[str, object] | None:
    """Return what was expected and found where a tokenizer can't be a student's, or could take endless memory or time.

    Args:
        tokenizer: Newly read: serialised, one with huge ids would take all memory.
        vocab_size: Ids that the student knows. Fewer tokens are fine: some models' embeddings have rows to spare.
        max_length: Most tokens that the student reads.
    """
    if (found := max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1) > vocab_size:
        return f"at most {vocab_size} tokens", found
    if (found := getattr(tokenizer.model, "max_input_chars_per_word", 0)) > _MAX_WORD:
        return f"max_input_chars_per_word of at most {_MAX_WORD}", found
    expected = f"special tokens that fit into {max_length}, with ids below {vocab_size}"
    if (found := sum(map(tokenizer.num_special_tokens_to_add, (False, True)))) > 2 * max_length:
        return expected, found
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added = tokenizer.encode("", "").ids + tokenizer.encode("").ids
    if len(added) > 2 * max_length or max(added, default=0) >= vocab_size:
        return expected, added[:10]
    return None


def _steps(part: dict[str, Any], name: str, inner: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a part of a tokenizer, those of sequences, under the name `inner`, one by one."""
    if (step := part.get(name)) and step.get("type") == "Sequence":
        for one in step[inner]:
            yield from _steps({inner: one}, inner, inner)
    elif step:
        yield step


def _growth(step: dict[str, Any]) -> float:
    """Return how many characters a normaliser or pre-tokenizer makes of one, at most."""
    match step:
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": content} if pattern:
            return max(1.0, _length(content) / len(pattern))
        case {"type": "Replace", "content": added} | {"type": "Prepend", "prepend": added}:
            return 1.0 + _length(added)  # an empty match adds to a character
        case {"type": "Precompiled", "precompiled_charsmap": table}:
            # The size of a trie, the trie, and the strings to which it leads, each with a NUL behind it.
            content = base64.b64decode(table)
            strings = content[4 + int.from_bytes(content[:4], "little") :].split(b"\0")
            return float(max(1, *(_length(string.decode("utf-8", "replace")) for string in strings)))
        case {"type": "ByteLevel"}:
            return 5.0  # up to 4 bytes, and a space before them
        case {"type": "BertNormalizer"}:
            return 3.0  # spaces around a Chinese character
        case {"type": "Metaspace"}:
            return 2.0  # a space before it
        case {"type": str(kind)} if _HARMLESS.fullmatch(kind):
            return 1.0
    return math.inf


def _length(text: str) -> int:
    """Return how long Unicode's forms and lower case make a text; another step could undo what they did, for the next.

    They are counted where a text comes from, as most tokenizers have several of them, which together make no more.
    """
    return len(unicodedata.normalize("NFKD", text.lower()))


def _takes_once(step: dict[str, Any]) -> bool:
    """Say whether a post-processor takes each text at most once."""
    if step["type"] != "TemplateProcessing":
        return step["type"] in ("BertProcessing", "RobertaProcessing")
    texts = [[piece["Sequence"]["id"] for piece in step[kind] if "Sequence" in piece] for kind in ("single", "pair")]
    return all(len(set(names)) == len(names) for names in texts)
