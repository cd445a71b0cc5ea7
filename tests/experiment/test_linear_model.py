from dataclasses import replace

import numpy as np
import pytest

from potstill.config import DataConfig
from potstill.data import Corpus, Examples, load_corpus
from potstill.experiment.linear import learning_curve, measure_linear_svm, suspicious_cases, suspicious_labels

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


def corpus_of(train: Examples, names: tuple[str, ...] = ("good", "bad")) -> Corpus:
    return Corpus("some", "some", names, train, part(12, in_pairs=train.pairs is not None), part(2, in_pairs=False))


@pytest.mark.parametrize("in_pairs", [False, True])
def test_wrong_labels_are_suspicious(in_pairs: bool) -> None:
    train = part(120, in_pairs=in_pairs)
    train = replace(train, texts=tuple(f"{text} {number}" for number, text in enumerate(train.texts)))
    labels = train.labels.copy()
    labels[[17, 50]] = 1 - labels[[17, 50]]

    found, note = suspicious_cases(corpus_of(Examples(train.texts, labels, train.pairs)))

    assert note == ""
    assert {(case.text, case.pair) for case in found[:2]} == {train.items[17], train.items[50]}
    for case in found:
        assert case.label != case.answer
        assert case.label_probability < 0.5 < case.answer_probability
    assert [case.label_probability for case in found] == sorted(case.label_probability for case in found)


def test_suspicious_labels_of_many_classes() -> None:
    names = tuple(f"class{number}" for number in range(30))
    labels = np.arange(300) % 30
    texts = tuple(f"some words and {names[label]} {number}" for number, label in enumerate(labels))
    wrong = np.where(np.arange(300) == 7, 20, labels)
    found, _ = suspicious_cases(corpus_of(Examples(texts, wrong), names))
    assert (found[0].text, found[0].label, found[0].answer) == (texts[7], "class20", "class7")


def test_repeated_texts_and_rare_classes_are_not_searched() -> None:
    texts = tuple(f"{'good' if n % 2 else 'bad'} thing {n}" for n in range(40))
    labels = np.arange(40) % 2
    labels[:3] = 2
    names = ("bad", "good", "rare")
    found, note = suspicious_cases(corpus_of(Examples(texts * 2, np.tile(labels, 2)), names))
    assert note.startswith("Searched among 37 of the 80 training texts: without repeated texts and classes of fewer")
    found, note = suspicious_cases(corpus_of(part(40, in_pairs=False)))
    assert found == ()
    assert note == "Not searched: it takes two classes with 5 different training texts each."


def test_learning_curve_ends_with_all_training_texts() -> None:
    curve = learning_curve(corpus_of(part(40, in_pairs=False)))
    assert curve is not None
    assert [texts for texts, _ in curve.points] == [4, 10, 20, 40]
    assert curve.points[-1][1] == 1.0
    assert curve.last_step.second_only == 0


def test_learning_curve_has_every_class_at_each_point() -> None:
    train = part(40, in_pairs=False)
    rare = train.take([*range(0, 40, 2), 1])
    curve = learning_curve(corpus_of(rare))
    assert curve is not None
    assert [texts for texts, _ in curve.points] == [3, 6, 11, 21]
    assert learning_curve(corpus_of(train.take(range(0, 40, 2)))) is None


def test_flipped_labels_are_suspicious():
    """Of 5 % flipped labels, at least 60 % are among the most suspicious 10 % (docs/data.md)."""
    corpus = load_corpus(DataConfig(source="clinc150:home"))
    generator, labels = np.random.default_rng(0), corpus.train.labels.copy()
    flipped = generator.choice(len(labels), len(labels) // 20, replace=False)
    labels[flipped] = (labels[flipped] + generator.integers(1, corpus.num_classes, len(flipped))) % corpus.num_classes
    places, probabilities = suspicious_labels(replace(corpus.train, labels=labels))
    others = probabilities.argmax(axis=1)
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
    places, probabilities = suspicious_labels(Examples(texts * 2, np.tile(labels, 2)))
    assert (len(places), places[0], probabilities[0].argmax()) == (40, 7, 1)
