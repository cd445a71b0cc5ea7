"""Word by word or as a whole, a text has the same ids."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from potstill import tokens
from potstill.runtime import words
from potstill.runtime.words import WordEncoder
from potstill.student.model import train_vocabulary

TEXTS = ("the cat sat on the mat", "it's what we'll see, isn't it?", "naïve cafés in 1999 ⅷ", "<pad> the mat")
TOKENIZER = train_vocabulary(TEXTS * 3, 330)
MOST = 12

PIECES = [
    "",
    "the",
    "cat",
    "'s",
    "n't",
    "a\u0308",
    "\u0308",
    "é",
    "1999",
    "ⅷ",
    "<pad>",
    "<pa",
    "\u00a0",
    "\t",
    "\x1c",
    "\u200b",
    "한",
    "\ud800",
]
texts_of_words = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=8).map(" ".join)


def whole(texts, most=MOST):
    return tokens.encode(TOKENIZER, texts, None, most, empty_id=7)


@given(st.lists(texts_of_words, max_size=5))
def test_ids_are_the_tokenizers_own(texts):
    encoder = WordEncoder(TOKENIZER, MOST)
    assert encoder.encode(texts, None, 7) == whole(texts)
    assert encoder.encode(texts, None, 7) == whole(texts)  # from memory


def test_words_are_encoded_once(monkeypatch):
    asked = []
    encode = tokens.encode
    monkeypatch.setattr(tokens, "encode", lambda *given, **named: (asked.extend(given[1]), encode(*given, **named))[1])
    encoder = WordEncoder(TOKENIZER, MOST)
    encoder.encode(["the cat", "the mat", "two  spaces"], None, 7)
    assert sorted(asked) == ["cat", "mat", "the", "two  spaces"]
    encoder.encode(["the mat sat"], None, 7)
    assert sorted(asked) == ["cat", "mat", "sat", "the", "two  spaces"]


def test_what_is_remembered_has_bounds(monkeypatch):
    monkeypatch.setattr(words, "_MOST_WORDS", 10)
    encoder = WordEncoder(TOKENIZER, MOST)
    for number in range(100):
        texts = [f"cat {number} {number}a " + "x" * 41]
        assert encoder.encode(texts, None, 7) == whole(texts)
        assert 0 < len(encoder._known) <= 10
        assert max(map(len, encoder._known)) < 41
    texts = [f"number {number}" for number in range(100)]  # more than the memory holds, at once
    assert encoder.encode(texts, None, 7) == whole(texts)
    assert len(encoder._known) <= 10


def test_threads_may_share_it(monkeypatch):
    monkeypatch.setattr(words, "_MOST_WORDS", 10)
    encoder = WordEncoder(TOKENIZER, MOST)
    texts = [f"the cat number {number}" for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: encoder.encode(texts[number:], None, 7), range(200)))
    expected = whole(texts)
    assert found == [expected[number:] for number in range(200)]


def changed(**parts):
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)),
        changed(pre_tokenizer=pre_tokenizers.ByteLevel(use_regex=False)),
        changed(normalizer=normalizers.Prepend("a")),
        changed(post_processor=processors.TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", 0)])),
        Tokenizer(models.WordLevel({"the": 0, "cat": 1, "a": 2}, unk_token="a")),
    ],
    ids=["no space before", "spaces within", "another beginning", "special tokens", "other model"],
)
def test_other_tokenizers_are_asked_for_whole_texts(tokenizer):
    texts = ["the cat sat", "cat"]
    found = WordEncoder(tokenizer, MOST).encode(texts, None, 7)
    assert found == tokens.encode(tokenizer, texts, None, MOST, empty_id=7)


def test_pairs_are_asked_for_whole():
    encoder = WordEncoder(TOKENIZER, MOST)
    expected = tokens.encode(TOKENIZER, ["the cat"], ["the mat"], MOST, empty_id=7)
    assert encoder.encode(["the cat"], ["the mat"], 7) == expected


def test_a_word_of_unknown_bytes_has_no_ids():
    tokenizer = Tokenizer(models.BPE({"Ġ": 0, "a": 1}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    texts = ["a b a", "b", "a"]
    assert WordEncoder(tokenizer, MOST).encode(texts, None, 7) == tokens.encode(
        tokenizer, texts, None, MOST, empty_id=7
    )
