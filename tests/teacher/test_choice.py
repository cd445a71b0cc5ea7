"""Codes of classes, and what answers say about them."""

from math import log, prod

import numpy as np
import pytest

from potstill.teacher.chat import Position, Token
from potstill.teacher.choice import (
    class_in,
    classes_in,
    codes_of,
    end_of,
    from_logprobs,
    from_samples,
    several_from_logprobs,
)


def answer(*places: dict[str, float]) -> list[Position]:
    """Return an answer whose tokens are the first ones of each place, by their probabilities."""
    tops = [[Token(token=token, logprob=log(p)) for token, p in place.items()] for place in places]
    return [Position(token=top[0].token, logprob=top[0].logprob, top_logprobs=top) for top in tops]


def probabilities(codes, *places):
    return from_logprobs(answer(*places), codes)


@pytest.mark.parametrize("classes", [2, 9, 10, 24, 25, 99, 100, 150])
def test_codes_differ_and_none_begins_another(classes):
    codes = codes_of(classes)
    assert len(set(codes)) == classes
    assert {len(code) for code in codes} == {1 if classes <= 24 else len(str(classes))}
    assert not {"A", "I"} & set(codes)


def test_tokens_that_are_no_codes_are_left_out_and_the_rest_adds_up_to_one():
    found = probabilities(codes_of(2), {"2": 0.6, "1": 0.2, "The": 0.2})
    np.testing.assert_allclose(found, [0.25, 0.75], atol=1e-6)


def test_one_code_in_several_spellings_counts_once_for_each():
    found = probabilities(codes_of(2), {" 2": 0.3, "2": 0.3, "**1": 0.2, "1.": 0.2})
    np.testing.assert_allclose(found, [0.4, 0.6], atol=1e-6)


def test_classes_beyond_the_most_probable_tokens_are_less_probable_than_these():
    codes = codes_of(12)
    found = probabilities(codes, dict.fromkeys(codes[:3], 0.3) | {codes[3]: 0.05})
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found[4:], 0.05 / 8, rtol=1e-4)
    assert (found[:4] > found[4]).all()


def test_codes_of_several_tokens_are_followed():
    codes = codes_of(30)  # 01 to 30
    found = probabilities(codes, {"1": 0.8, "0": 0.2}, {"7": 0.75, "2": 0.25})
    assert found.argmax() == codes.index("17")
    assert found[codes.index("17")] / found[codes.index("12")] == pytest.approx(3, rel=1e-4)
    np.testing.assert_allclose(found[:9], 0.2 / 9, rtol=1e-2)  # those that begin with 0 share its probability


def test_codes_of_one_token_each_are_read_where_others_need_two():
    codes = codes_of(150)
    found = probabilities(codes, {"017": 0.7, "018": 0.2, "0": 0.1})
    assert found.argsort()[::-1][:2].tolist() == [16, 17]


@pytest.mark.parametrize(
    "places",
    [
        [{"\n": 1.0}, {"2": 0.75, "1": 0.25}],
        [{"Answer": 0.9, "1": 0.1}, {":": 1.0}, {" 2": 0.75, " 1": 0.25}],
        [{"<think>": 1.0}, {"1": 1.0}, {"</think>": 1.0}, {"\n\n": 1.0}, {"2": 0.75, "1": 0.25}],
    ],
    ids=["line feed", "words", "thoughts"],
)
def test_a_code_is_found_behind_other_tokens(places):
    np.testing.assert_allclose(probabilities(codes_of(2), *places), [0.25, 0.75], atol=1e-6)


@pytest.mark.parametrize(
    "places",
    [
        [{"I": 0.9, "Sorry": 0.06, "1": 0.02}, {"'m": 1.0}],
        [{"<think>": 1.0}, {"1": 1.0}],
        [],
    ],
    ids=["refusal", "thoughts cut short", "nothing"],
)
def test_an_answer_without_a_code_names_no_class(places):
    assert probabilities(codes_of(2), *places) is None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        *[("2", 1), (" 2.\n", 1), ("(2)", 1), ("**2**", 1), ("2: good", 1), ("2 - because it is kind", 1)],
        *[("Good.", 1), ("good", 1), ("Answer: 2", 1), ("The class is 2.", 1), ("<think>1? no</think>\n2", 1)],
        *[("3", None), ("", None), ("1 or 2", None), ("I'm sorry", None), ("a good review", None), ("22", None)],
    ],
)
def test_classes_are_found_in_what_a_model_says(text, place):
    assert class_in(text, codes_of(2), ("bad", "good")) == place


def test_samples_are_counted_and_no_class_is_impossible():
    np.testing.assert_allclose(from_samples([[1], [1], None, [0]], codes_of(2)), [1.5 / 4, 2.5 / 4], rtol=1e-6)
    np.testing.assert_allclose(from_samples([[0, 1], [1], None, []], codes_of(2)), [1.5 / 4, 2.5 / 4], rtol=1e-6)
    np.testing.assert_allclose(from_samples([[], []], codes_of(4)), [0.25 / 3] * 4)
    assert from_samples([None, None], codes_of(2)) is None


def chain(shares, listed, codes, separator=", "):
    """Return the tokens with which a model lists classes that apply independently with these probabilities."""
    end, rest, places = end_of(codes), list(range(len(codes))), []
    for chosen in (*listed, None):
        ahead = {codes[place]: shares[place] * prod(1 - shares[one] for one in rest if one < place) for place in rest}
        ahead[end] = prod(1 - shares[one] for one in rest)
        code = end if chosen is None else codes[chosen]
        places += [{code: ahead[code]} | ahead, {separator: 1.0}]
        rest = [place for place in rest if chosen is not None and place > chosen]
    return places[:-1]


@pytest.mark.parametrize("listed", [[], [1], [1, 3], [0, 1, 2, 3, 4]])
def test_a_list_tells_how_probable_each_class_is_whatever_it_lists(listed):
    shares = [0.1, 0.8, 0.3, 0.9, 0.05]
    found = several_from_logprobs(answer(*chain(shares, listed, codes_of(5))), codes_of(5))
    np.testing.assert_allclose(found, shares, rtol=1e-6)


def test_lists_are_found_behind_other_words_and_their_codes_may_be_several_tokens():
    codes, shares = codes_of(30), np.full(30, 1e-3)
    shares[16] = 0.9
    (code, comma, end) = chain(shares, [16], codes)
    words, tens = {"Answer": 1.0}, {"1": 0.95, "0": 0.05}
    spelt = {code[1:]: share for code, share in code.items() if code.startswith("1")}
    spelt = {one: share / sum(spelt.values()) for one, share in spelt.items()}
    found = several_from_logprobs(answer(words, {": ": 1.0}, tens, {"7": spelt["7"]} | spelt, comma, end), codes)
    assert found.argmax() == 16
    assert found[16] > 0.8
    assert np.delete(found, 16).max() < 0.02


def test_lists_without_an_end_and_out_of_order_are_read_too():
    codes = codes_of(3)
    without = several_from_logprobs(answer({"1": 0.7, "0": 0.2, "3": 0.1}), codes)
    np.testing.assert_allclose(without, [0.7, 0, 0.1], atol=1e-6)
    stopped = several_from_logprobs(
        answer({"1": 0.75, "0": 0.25}, {",": 0.4, "\n": 0.6}, {"2": 1.0}, {",": 1.0}, {"0": 1.0}), codes
    )
    np.testing.assert_allclose(stopped, [0.75, 0.4, 0], atol=1e-6)
    disordered = several_from_logprobs(
        answer({"2": 0.9, "1": 0.1}, {",": 1.0}, {"1": 0.8, "0": 0.2}, {",": 1.0}, {"0": 1.0}), codes
    )
    np.testing.assert_allclose(disordered, [0.8, 1.0, 0], atol=1e-6)
    assert several_from_logprobs(answer({"Sorry": 0.99, "1": 0.01}), codes) is None


@pytest.mark.parametrize(
    ("text", "places"),
    [
        *[
            ("1, 2, 0", [0, 1]),
            ("0", []),
            ("None.", []),
            ("2,0", [1]),
            ("good, bad", [0, 1]),
            ("1: bad\n2: good", [0, 1]),
        ],
        *[("Answer: 2, 0", [1]), ("<think>1, 0</think>2, 0.", [1]), ("2, 2, 0", [1])],
        *[("3, 0", None), ("", None), ("I'm sorry, I can't", None), ("1 or 2", None), ("2, maybe", None)],
    ],
)
def test_lists_of_classes_are_found_in_what_a_model_says(text, places):
    assert classes_in(text, codes_of(2), ("bad", "good")) == places
