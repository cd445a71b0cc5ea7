import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from potstill.distillation import words
from potstill.distillation.words import WordEnds
from potstill.student.model import train_vocabulary

TEXTS = ("The cat sat.", "", "  two   words ", "naïve café 😀!", "one", "\n", "unbelievable antidisestablishment")


@pytest.fixture(scope="module")
def bpe():
    return train_vocabulary(TEXTS, 300)


def letters():
    """A tokenizer that cuts every character: another reading of the same words."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return tokenizer


@pytest.mark.parametrize("at_a_time", [2, 1024])
def test_the_last_token_of_each_word(bpe, monkeypatch, at_a_time):
    monkeypatch.setattr(words, "_CHUNK", at_a_time)
    ends = WordEnds.find(bpe, TEXTS, 64)
    assert ends.counts.tolist() == [len(text.split()) for text in TEXTS]
    for number, text in enumerate(TEXTS):
        ids = bpe.encode(text).ids
        starts = [0, *(ends.places[slice(*ends.offsets[[number, number + 1]])] + 1)]
        read = [bpe.decode(ids[a:b]).strip() for a, b in itertools.pairwise(starts)]
        assert read == text.split()


def test_a_character_of_several_tokens_is_read_when_the_last_of_them_is():
    bytewise = train_vocabulary(("plain",), 257)
    text = "café 🙂 ok"
    ids = bytewise.encode(text).ids
    ends = WordEnds.find(bytewise, [text], 64)
    assert [bytewise.decode(ids[: place + 1]).strip() for place in ends.places] == ["café", "café 🙂", "café 🙂 ok"]


@given(text=st.text(max_size=30))
def test_two_tokenizers_agree_on_the_number_of_words(bpe, text):
    normal = text.replace("\x00", "")
    counts = [WordEnds.find(tokenizer, [normal], 1000).counts[0] for tokenizer in (bpe, letters())]
    assert counts[1] == len(normal.split())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("text", ["Voilà le thé", "Le café noir est là.", "é"])
def test_decomposed_characters_are_places_in_the_same_tokens(text):
    tokenizer = train_vocabulary(["Le café noir est là. Voilà le thé"] * 20, 400)
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert tokenizer.encode(composed).ids == tokenizer.encode(decomposed).ids
    places = [WordEnds.find(tokenizer, [one], 64).places.tolist() for one in (composed, decomposed)]
    assert places[0] == places[1]
    assert len(places[0]) == len(text.split())


def test_a_word_that_a_tokenizer_drops_shifts_no_other():
    tokenizer = letters()
    tokenizer.normalizer = normalizers.BertNormalizer()
    for text in ("\u200b the cat", "the \u200b cat", "\u200b", ""):
        counts = [WordEnds.find(one, [text], 64).counts[0] for one in (tokenizer, letters())]
        assert counts[0] in (counts[1], 0)  # 0 where nothing is left to read
    assert WordEnds.find(tokenizer, ["\u200b the cat"], 64).places.tolist() == [0, 3, 7]


def test_words_that_are_cut_off_are_left_out():
    ends = WordEnds.find(letters(), ["abc de f"], 5)
    assert ends.places.tolist() == [2]  # "abc", " ", "d": the second word's end is not there


def test_the_first_words_of_each_text():
    ends = WordEnds.find(letters(), ["a b c", "d", "e f"], 64)
    kept = ends.first(np.array([2, 0, 1]))
    assert kept.counts.tolist() == [2, 0, 1]
    assert kept.places.tolist() == [0, 2, 0]
