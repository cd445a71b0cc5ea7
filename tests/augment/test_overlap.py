from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rapidfuzz.distance import Indel

from potstill.augment import overlap
from potstill.augment.overlap import near_duplicates, normal_form

# Few letters, so that texts are often alike; the others are what normal forms and string buffers stumble over.
TEXTS = st.lists(st.one_of(st.text("ab ,.", max_size=12), st.text(max_size=8)), max_size=12)
SIMILARITIES = st.fractions(Fraction(1, 30), 1, max_denominator=30)  # those that short texts have, to the last bit


def _by_brute_force(texts, held_out, similarity):
    """Compare one pair at a time, without a cutoff and in whole numbers."""
    held = [normal_form(text) for text in held_out]
    return [
        any(Indel.similarity(text, other) >= similarity * (len(text) + len(other)) for other in held)
        for text in map(normal_form, texts)
    ]


@given(texts=TEXTS, held_out=TEXTS, similarity=SIMILARITIES, chunk=st.integers(1, 5))
@example(texts=["\ud800", ""], held_out=["\ud800!"], similarity=Fraction(1), chunk=1)
@example(texts=["a"], held_out=["a" * 19], similarity=Fraction(1, 10), chunk=1)
def test_equals_comparing_every_pair(texts, held_out, similarity, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "CHUNK", chunk)
        found = near_duplicates(texts, held_out, float(similarity))
    assert found.dtype == np.bool_
    assert found.tolist() == _by_brute_force(texts, held_out, similarity)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_rounding_does_not_move_the_bound(tenths):
    """In floating point, 1 - 0.9 is less than 0.1."""
    text, held = "a" * tenths, "a" * tenths + "b" * (20 - 2 * tenths)  # likeness: 2 tenths / 20
    assert near_duplicates([text], [held], tenths / 10).all()
    assert not near_duplicates([text], [held + "b"], tenths / 10).any()


@pytest.mark.parametrize(
    "text",
    ["the cat sat", "The cat, sat!", "  THE\tCAT\n SAT ", "“The” cat—sat…", "ＴＨＥ cat sat", "the cat sat ?"],
)
def test_case_space_and_punctuation_are_ignored(text):
    assert near_duplicates([text], ["The cat sat."], 1.0).all()


@pytest.mark.parametrize("text", ["the cats sat", "thecat sat", "the cat + sat", "", "sat"])
def test_letters_words_and_symbols_count(text):
    assert not near_duplicates([text], ["The cat sat."], 1.0).any()


def test_case_is_folded():
    assert near_duplicates(["STRASSE", "Σίσυφος"], ["straße", "ΣΊΣΥΦΟΣ"], 1.0).all()


def test_empty_texts_and_lists():
    assert near_duplicates([], ["a"], 0.5).shape == (0,)
    assert near_duplicates(["a", ""], [], 0.5).tolist() == [False, False]
    assert near_duplicates(["", "!", "a"], ["..."], 0.01).tolist() == [True, True, False]


def test_answers_are_in_order_across_chunks():
    """In an order that sorting by length undoes, over several chunks and the borders between them."""
    held_out = ["x" * length for length in range(1, 2 * overlap.CHUNK, 3)]
    texts = [letter * length for length in range(2 * overlap.CHUNK, 0, -1) for letter in "xy"]
    expected = [text[0] == "x" and len(text) % 3 == 1 and len(text) < 2 * overlap.CHUNK for text in texts]
    assert near_duplicates(texts, held_out, 1.0).tolist() == expected
