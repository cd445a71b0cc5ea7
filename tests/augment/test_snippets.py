"""Words and spans of the training texts."""

from potstill.augment.snippets import SPAN_WORDS, spans, words

TEXTS = ("the cat sat on the mat", "the dog ran", "ok", "")


def test_the_most_frequent_words_of_the_texts_come_first_then_english_ones():
    found = list(words(TEXTS, 30))
    assert found[0] == "the"
    assert set(found[:9]) == {"the", "cat", "sat", "on", "mat", "dog", "ran", "ok"} | {found[8]}
    assert len(found) == len(set(found)) == 30
    assert list(words(TEXTS, 3)) == found[:3]


def test_spans_are_parts_of_the_texts_and_depend_on_the_seed_alone():
    found = list(spans(TEXTS, 10, seed=0))
    assert found == list(spans(TEXTS, 10, seed=0)) != list(spans(TEXTS, 10, seed=1))
    assert len(set(found)) == len(found) == 10
    for span in found:
        assert any(f" {span} " in f" {text} " and span != text for text in TEXTS)
        assert SPAN_WORDS[0] <= len(span.split()) <= SPAN_WORDS[1]


def test_texts_that_hold_few_different_spans_give_what_they_have():
    assert set(spans(("a b c",), 50, seed=0)) == {"a b", "b c"}
    assert list(spans(("a", ""), 50, seed=0)) == []
