from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from potstill.data import Examples, tokenised
from potstill.data.tokenised import TokenisedTexts, TrainingSet, sequential_batches, shuffled_batches, tokenise

TEXTS = ("the cat sat", "a dog ran", "", "the the the the the the the", "half a pair \ud800")

lengths_strategy = st.lists(st.integers(1, 60), min_size=1, max_size=120).map(lambda values: np.array(values, np.int64))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def make_tokenizer(vocab_size: int = 60) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<pad>"], show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on a mat", "a dog ran"], trainer)
    return tokenizer


def make_examples(*texts: str, pairs: tuple[str, ...] | None = None) -> Examples:
    return Examples(texts, np.zeros(len(texts), dtype=np.int64), pairs)


def sentence_lengths(count: int = 4000) -> np.ndarray:
    """Lengths spread as CoLA's are: a mean of about 11 tokens and a long tail."""
    return np.random.default_rng(0).gamma(4.0, 2.8, size=count).astype(np.int64) + 1


@given(lengths=lengths_strategy, batch_size=st.integers(1, 50), seed=st.integers(0, 99))
def test_epoch_holds_every_text_once(lengths, batch_size, seed):
    batches = shuffled_batches(lengths, batch_size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    sizes = sorted(map(len, batches))
    assert set(sizes[1:]) <= {batch_size}
    assert 1 <= sizes[0] <= batch_size


def test_batches_have_little_padding_and_no_order_of_lengths():
    lengths = sentence_lengths()
    batches = shuffled_batches(lengths, 32, np.random.default_rng(1))
    computed = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert 1 - lengths.sum() / computed < 0.03
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.25  # 125 batches: 2.8 standard errors


def test_incomplete_batch_has_any_length():
    lengths = np.arange(1, 103)
    plans = [shuffled_batches(lengths, 10, np.random.default_rng(seed)) for seed in range(40)]
    assert len({tuple(map(len, sorted(plan, key=min))) for plan in plans}) > 5


def test_batches_differ_between_epochs_and_repeat_with_the_seed():
    lengths = sentence_lengths(200)
    generator = np.random.default_rng(3)
    first, second = (shuffled_batches(lengths, 16, generator) for _ in range(2))
    again = shuffled_batches(lengths, 16, np.random.default_rng(3))
    assert all(map(np.array_equal, first, again))
    assert {frozenset(batch.tolist()) for batch in first} != {frozenset(batch.tolist()) for batch in second}


@given(lengths=lengths_strategy, budget=st.integers(1, 500))
def test_sequential_batches_keep_their_budget(lengths, budget):
    batches = list(sequential_batches(lengths, budget))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= budget for batch in batches)
    longest = [lengths[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_batch_is_padded_on_the_right_and_takes_labels_and_logits_along():
    tokens = TokenisedTexts(np.array([5, 6, 7, 8, 9, 5], np.int32), np.array([0, 3, 4, 6]))
    data = TrainingSet(tokens, torch.tensor([1, 0, 1]), pad_token_id=2)
    batch = data.batch([2, 0])
    assert batch.input_ids.tolist() == [[9, 5, 2], [5, 6, 7]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.labels.tolist() == [1, 1]
    assert batch.teacher_logits is None
    assert len(batch.inputs) == 2
    assert data.batch([1]).input_ids.tolist() == [[8]]
    assert data.majority_share == pytest.approx(2 / 3)
    with_logits = replace(data, teacher_logits=torch.tensor([[1.0], [2.0], [3.0]]))
    assert with_logits.batch([2, 0]).to(torch.device("cpu")).teacher_logits.tolist() == [[3.0], [1.0]]


def test_repr_of_examples_is_short():
    assert repr(make_examples(*"a" * 2000)) == "<Examples: 2,000 texts>"


def test_texts_are_cut_and_never_empty():
    tokens = tokenise(make_examples(*TEXTS), make_tokenizer(), max_length=4, empty_id=0)
    assert len(tokens) == len(TEXTS)
    assert tokens.lengths.min() == 1
    assert tokens.lengths.max() == 4
    assert tokens[2].tolist() == [0]


def test_second_call_reads_the_cache(monkeypatch, cache):
    tokenizer, examples = make_tokenizer(), make_examples(*TEXTS)
    first = tokenise(examples, tokenizer, 8, empty_id=0)
    monkeypatch.setattr(tokenised, "encodings", None)  # calling it would fail
    for same in (tokenizer, make_tokenizer()):
        again = tokenise(examples, same, 8, empty_id=0)
        assert np.array_equal(again.ids, first.ids)
        assert np.array_equal(again.offsets, first.offsets)
        assert (again.ids.dtype, again.offsets.dtype) == (np.int32, np.int64)
    assert len(list(cache.iterdir())) == 1


def test_uncached_call_writes_nothing(cache):
    examples = make_examples(*TEXTS)
    uncached = tokenise(examples, make_tokenizer(), 8, empty_id=0, cached=False)
    assert not cache.exists() or not list(cache.iterdir())
    cached = tokenise(examples, make_tokenizer(), 8, empty_id=0)
    assert np.array_equal(uncached.ids, cached.ids)
    assert np.array_equal(uncached.offsets, cached.offsets)


def test_cache_key_follows_everything_that_decides_the_ids(cache):
    examples = make_examples("the cat", "")
    for changed in (
        (examples, make_tokenizer(), 8, 0),
        (examples, make_tokenizer(16), 8, 0),
        (examples, make_tokenizer(), 4, 0),
        (examples, make_tokenizer(), 8, 1),
        (make_examples("", "the cat"), make_tokenizer(), 8, 0),
        (make_examples("the cat", "", pairs=("", "")), make_tokenizer(), 8, 0),
        (make_examples("the cat", "", "", ""), make_tokenizer(), 8, 0),
    ):
        tokenise(*changed)
    assert len(list(cache.iterdir())) == 7
