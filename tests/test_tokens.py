import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from potstill.tokens import encode, shared

VOCABULARY = {"<pad>": 0, "<cls>": 1, "a": 2, "b": 3, "c": 4}


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<none>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def test_ids_are_neither_padded_nor_cut_below_the_limit(tokenizer):
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(1, direction="left")
    assert encode(tokenizer, ["a", "a b c"], None, 4, empty_id=0) == [[2], [2, 3, 4]]


def test_the_right_end_is_cut_and_special_tokens_count(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(single="<cls> $A", special_tokens=[("<cls>", 1)])
    assert encode(tokenizer, ["a b c a b c"], None, 4, empty_id=0) == [[1, 2, 3, 4]]


def test_a_text_without_tokens_becomes_the_empty_id(tokenizer):
    assert encode(tokenizer, ["", "  ", "b"], None, 4, empty_id=0) == [[0], [0], [3]]
    assert encode(tokenizer, [""], [""], 4, empty_id=4) == [[4]]


def test_pairs_are_joined_and_the_longer_one_is_cut(tokenizer):
    assert encode(tokenizer, ["a", "a a a a"], ["b", "b"], 3, empty_id=0) == [[2, 3], [2, 2, 3]]


def test_texts_and_pairs_must_match(tokenizer):
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        encode(tokenizer, ["a", "b"], ["b"], 3, empty_id=0)


def test_more_texts_than_one_chunk_keep_their_order(tokenizer):
    texts = ["a", "b", "c"] * 1000
    assert encode(tokenizer, texts, None, 4, empty_id=0) == [[VOCABULARY[text]] for text in texts]


def test_equal_tokenizers_are_one(tokenizer):
    same, other = (Tokenizer.from_str(tokenizer.to_str()) for _ in range(2))
    first = shared(tokenizer, 4)
    assert shared(same, 4) is first
    assert shared(other, 3) is not first
    assert encode(first, ["a b c a b"], None, 4, empty_id=0) == [[2, 3, 4, 2]]
    for number in range(20):  # the oldest are forgotten
        shared(Tokenizer(models.WordLevel({f"{number}": 0}, unk_token="<none>")), 4)
    assert shared(Tokenizer.from_str(tokenizer.to_str()), 4) is not first
