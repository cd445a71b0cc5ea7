import numpy as np
import pytest

from potstill.predict.ngrams import LENGTHS, Ngrams, hash_ngrams
from potstill.predict.tokens import CHARACTERS_A_TOKEN

LONG = 4096
BUCKETS = 2**20
"""So many that no two n-grams of these texts share a row."""


def rows_of(text: str, second: str | None = None) -> set[int]:
    return set(hash_ngrams([text], None if second is None else [second], BUCKETS, LONG).rows.tolist())


def pieces(word: str) -> set[str]:
    framed = f" {word} "
    return {framed[start : start + n] for n in LENGTHS for start in range(len(framed) - n + 1)}


def test_text_has_its_words_pairs_of_words_and_pieces():
    found = hash_ngrams(["The cat, the hat"], None, BUCKETS, LONG)
    words, pairs = 4, 3
    of_pieces = [len(pieces("the")), len(pieces("cat,")), len(pieces("the")), len(pieces("hat"))]
    assert len(found.rows) == words + pairs + sum(of_pieces)
    distinct = {"the", "cat", "hat", "the cat", "cat, the", "the hat"}
    assert len(set(found.rows.tolist())) == len(distinct) + len(pieces("the") | pieces("cat,") | pieces("hat"))


def test_case_and_white_space_make_no_difference():
    assert rows_of("Good  morning\n") == rows_of("good morning") != rows_of("goodmorning")


def test_words_are_found_again_in_other_texts():
    assert rows_of("cat") < rows_of("a cat sat")
    assert not rows_of("cat") & rows_of("dog")
    assert rows_of("don't") != rows_of("don t")  # an apostrophe ends no word


def test_texts_do_not_depend_on_their_neighbours():
    texts = ["one two", "", "Ä ö 漢字 🙂", "\ud800", "x" * 40_000, "last one"]
    together = hash_ngrams(texts, None, BUCKETS, LONG)
    assert len(together.offsets) == len(texts) + 1
    for place, text in enumerate(texts):
        alone = hash_ngrams([text], None, BUCKETS, LONG)
        part = slice(*together.offsets[place : place + 2])
        np.testing.assert_array_equal(together.rows[part], alone.rows)
        np.testing.assert_array_equal(together.weights[part], alone.weights)


def test_of_long_texts_the_end_may_be_read_too():
    start, end = "one " * 20, "two " * 20  # of 80 characters
    long = f"{start}{'qqq ' * 1000}{end}".strip()
    read = CHARACTERS_A_TOKEN * 8  # 128

    def found(text, long_texts="head"):
        return set(hash_ngrams([text], None, BUCKETS, 8, long_texts).rows.tolist())

    assert rows_of("two") & found(long) == set()
    assert rows_of("one") | rows_of("two") <= found(long, "head-tail")
    assert rows_of("qqq") & found(long, "head-tail") == set()
    for short in ("one two", "x" * read):
        assert found(short, "head-tail") == found(short)


def test_words_and_pieces_count_alike_however_long_the_text():
    for text in ("a few words", "many words " * 50):
        weights = hash_ngrams([text], None, BUCKETS, LONG).weights.astype(np.float64)
        assert np.square(weights).sum() == pytest.approx(2)  # 1 for the words, 1 for the pieces


def test_second_text_of_a_pair_has_rows_of_its_own():
    assert rows_of("yes", "no") != rows_of("no", "yes")
    assert rows_of("yes", "no") > rows_of("yes", "")
    assert not rows_of("", "no") & rows_of("no", "")


@pytest.mark.parametrize("buckets", [2, 1024])
def test_rows_are_those_of_the_table(buckets):
    rows = hash_ngrams(["some words to hash"] * 3, None, buckets, LONG).rows
    assert rows.min() >= 0
    assert rows.max() < buckets


def test_padding_has_no_weight():
    found = hash_ngrams(["one", "one two three", ""], None, BUCKETS, LONG)
    rows, weights = found.padded(np.array([2, 0, 1]))
    assert rows.shape == weights.shape == (3, np.diff(found.offsets).max())
    assert weights[0].max() == 0
    assert (weights[1] > 0).sum() == np.diff(found.offsets)[0]
    nothing = hash_ngrams([""], None, BUCKETS, LONG).padded(np.array([0]))
    assert [array.shape for array in nothing] == [(1, 1), (1, 1)]
    assert not nothing[1].any()


def test_long_texts_are_cut():
    text = "word " * 1000
    cut = hash_ngrams([text], None, BUCKETS, 10)
    assert len(cut.rows) == len(hash_ngrams([text[: 10 * CHARACTERS_A_TOKEN]], None, BUCKETS, LONG).rows)


def test_words_of_both_texts_of_a_pair_make_no_pair_of_words():
    apart = len(hash_ngrams(["one"], ["two"], BUCKETS, LONG).rows)
    assert apart == sum(len(hash_ngrams([word], None, BUCKETS, LONG).rows) for word in ("one", "two"))


def test_no_texts_have_no_ngrams():
    assert isinstance(hash_ngrams([], None, BUCKETS, LONG), Ngrams)
    assert hash_ngrams([], None, BUCKETS, LONG).offsets.tolist() == [0]
