from dataclasses import replace

import numpy as np
import pytest

from potstill.config import DataConfig
from potstill.data import Corpus, Examples, load_corpus
from potstill.experiment.linear import measure_linear_svm, suspicious_labels

WORDS = ("good", "fine", "great"), ("bad", "poor", "awful")


def part(count: int, *, in_pairs: bool) -> Examples:
    labels = np.arange(count) % 2
    texts = tuple(f"the {NOUNS[n % 3]} was {WORDS[label][n % 3]}" for n, label in enumerate(labels))
    return Examples(("the same for all",) * count, labels, texts) if in_pairs else Examples(texts, labels)


NOUNS = ("food", "room", "view")


@pytest.mark.parametrize("in_pairs", [False, True])
def test_linear_model_learns_from_words(in_pairs: bool) -> None:
    splits = (part(count, in_pairs=in_pairs) for count in (40, 6, 12))
    corpus = Corpus("some", "some", ("good", "bad"), *splits)

    result, answers = measure_linear_svm(corpus)

    np.testing.assert_array_equal(answers, corpus.test.labels)
    assert result.metrics.accuracy == 1.0
    assert result.intervals["accuracy"] == (1.0, 1.0)
    assert result.bytes_on_disk > 8 * result.parameters  # float64, and the vocabulary
    assert result.train_seconds > 0
    assert result.texts_per_second > 0


def test_texts_without_letters_are_no_error() -> None:
    splits = [Examples(("!!", "??") * count, np.array([0, 1] * count)) for count in (8, 2, 3)]
    _, answers = measure_linear_svm(Corpus("some", "some", ("a", "b"), *splits))
    assert answers.shape == (6,)


def test_flipped_labels_are_suspicious():
    """Of 5 % flipped labels, at least 60 % are among the most suspicious 10 %; see benchmarks/label_errors.py."""
    corpus = load_corpus(DataConfig(source="clinc150:home"))
    generator, labels = np.random.default_rng(0), corpus.train.labels.copy()
    flipped = generator.choice(len(labels), len(labels) // 20, replace=False)
    labels[flipped] = (labels[flipped] + generator.integers(1, corpus.num_classes, len(flipped))) % corpus.num_classes
    places, others = suspicious_labels(replace(corpus.train, labels=labels))
    first = places[: len(labels) // 10]
    assert np.isin(flipped, first).mean() >= 0.6
    right = others[np.isin(places, flipped)] == corpus.train.labels[places[np.isin(places, flipped)]]
    assert right.mean() > 0.6  # and what they should be is seen


@pytest.mark.parametrize("labels", [[0, 1] * 4, [0] * 9 + [1]])
def test_too_few_texts_are_not_suspicious(labels):
    texts = tuple(f"text {number}" for number in range(len(labels)))
    assert [len(found) for found in suspicious_labels(Examples(texts, np.array(labels)))] == [0, 0]


def test_repeated_texts_are_ranked_once_and_two_classes_suffice():
    texts = tuple(f"{'good' if n % 2 else 'bad'} thing {n // 2}" for n in range(40))
    labels = np.arange(40) % 2
    labels[7] = 0
    places, others = suspicious_labels(Examples(texts * 2, np.tile(labels, 2)))
    assert (len(places), places[0], others[0]) == (40, 7, 1)
