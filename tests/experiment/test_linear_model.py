import numpy as np
import pytest

from potstill.data import Corpus, Examples
from potstill.experiment.linear import measure_linear_svm

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
