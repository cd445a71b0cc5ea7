"""Words and spans of the training texts."""

from tokenizers import Tokenizer, decoders, models

from potstill.augment.snippets import SPAN_WORDS, spans, vocabulary_words, words

TEXTS = ("the cat sat on the mat", "the dog ran", "ok", "")


def test_the_most_frequent_words_of_the_texts_come_first_then_those_of_the_vocabulary():
    found = list(words(TEXTS, 9, ["the", "house", "tree"]))
    assert found[0] == "the"
    assert set(found) == {"the", "cat", "sat", "on", "mat", "dog", "ran", "ok", "house"}
    assert list(words(TEXTS, 3, [])) == found[:3]


def test_whole_words_of_a_vocabulary_come_in_its_order():
    tokenizer = Tokenizer(models.BPE({"Ġ": 0, "Ġthe": 2, "ing": 1, "ĠThe": 3, "Ġcat": 4, "Ġ9": 5}, []))
    tokenizer.decoder = decoders.ByteLevel()
    assert vocabulary_words(tokenizer) == ["the", "cat"]


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
