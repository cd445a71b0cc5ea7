"""Thresholds from answers to validation texts: coverage, promised errors, prediction sets."""

from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import binom

from potstill.errors import ArtifactError
from potstill.predict.abstention import RISK, ValidationAnswers, _binomial_tail, prediction_sets
from potstill.predict.decision import abstains, confidence, predict_class

ANSWERS = ValidationAnswers(right=(0.9, 0.8, 0.8, 0.6), wrong=((0.7, 0.2), (0.5, 0.4)))


def drawn(generator, texts, classes=3):
    """Make probabilities, and labels that are drawn by them: a model that is calibrated."""
    logits = generator.normal(size=(texts, classes)) * 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (generator.random((texts, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return probabilities.astype(np.float32), labels


def noted(probabilities, labels):
    return ValidationAnswers.of(probabilities, predict_class(probabilities), labels)


def test_answers_are_noted_as_right_or_wrong_and_rounded_down():
    probabilities = np.array([[0.125, 0.875], [0.123456789, 0.876543211], [0.75, 0.25]], dtype=np.float32)
    found = noted(probabilities, np.array([1, 0, 0]))
    assert found == ValidationAnswers(right=(0.875, 0.75), wrong=((0.87654, 0.12345),))
    assert len(found) == 3
    assert ValidationAnswers.parse(asdict(found)) == found


def test_of_many_texts_some_are_noted_of_every_part_of_the_split():
    probabilities, labels = drawn(np.random.default_rng(0), 5000)
    labels[2500:] = probabilities[2500:].argmin(axis=1)  # a file that is sorted
    found = noted(probabilities, labels)
    assert len(found) == 2000
    wrong = (predict_class(probabilities) != labels).mean()
    assert len(found.wrong) / 2000 == pytest.approx(wrong, abs=0.03)


@pytest.mark.parametrize(
    ("coverage", "least"), [(1e-9, 0.9), (1 / 6, 0.9), (0.17, 0.8), (0.5, 0.8), (2 / 3, 0.7), (0.9, 0.5), (1.0, 0.5)]
)
def test_coverage_takes_the_surest_texts(coverage, least):
    assert ANSWERS.min_confidence(coverage) == least


def test_the_threshold_finds_the_validation_texts_that_it_was_chosen_by():
    probabilities, labels = drawn(np.random.default_rng(1), 1000)
    least = noted(probabilities, labels).min_confidence(0.7)
    assert (~abstains(probabilities, predict_class(probabilities), least)).sum() == 700


@pytest.mark.parametrize("falls", [True, False], ids=["surer is better", "surest are worse"])
def test_a_promised_error_is_exceeded_as_seldom_as_is_said(falls):
    """In many draws of a validation split from a population whose true error at every threshold is known."""
    generator, wanted, trials, texts = np.random.default_rng(2), 0.1, 400, 300
    grid = np.linspace(0, 1, 100_001)
    risk = 0.5 * (1 - grid) ** 2 if falls else np.where(grid > 0.9, 0.25, 0.2 * (1 - grid))
    true = np.cumsum(risk[::-1])[::-1] / np.arange(len(grid), 0, -1)  # of all that are at least so sure
    exceeded, covered = 0, []
    for _ in range(trials):
        places = generator.integers(0, len(grid), texts)
        is_wrong = generator.random(texts) < risk[places]
        right, wrong = grid[places[~is_wrong]], grid[places[is_wrong]]
        answers = ValidationAnswers(tuple(right), tuple((one, 0.0) for one in wrong))
        try:
            least = answers.min_confidence(max_error=wanted)
        except ArtifactError:
            covered.append(0.0)
            continue
        covered.append(1 - least)
        exceeded += bool(true[round(least * 100_000)] > wanted)
    assert exceeded / trials <= RISK + 3 * (RISK * (1 - RISK) / trials) ** 0.5
    if falls:  # the error is 10 % where 77 % are answered
        assert 0.45 < np.mean(covered) < 0.75


def test_answers_without_mistakes_promise_few_errors_from_some_number_on():
    assert ValidationAnswers((0.9,) * 100, ()).min_confidence(max_error=0.05) == 0.9
    with pytest.raises(ArtifactError, match=r"40 validation texts can promise .*found 0.05; .* 0.10\n") as error:
        ValidationAnswers((0.9,) * 40, ()).min_confidence(max_error=0.05)
    assert "what to do: raise --max-error" in str(error.value)
    assert ValidationAnswers((0.9,) * 40, ()).min_confidence(max_error=0.1) == 0.9
    with pytest.raises(ArtifactError, match="expected a max_error that"):
        ValidationAnswers((), ((0.9, 0.1),) * 40).min_confidence(max_error=0.9)


@pytest.mark.parametrize(
    "asked",
    [{}, {"coverage": 0.5, "max_error": 0.5}, {"coverage": 0.0}, {"coverage": 1.1}, {"max_error": 0}, {"max_error": 1}],
)
def test_numbers_out_of_range_are_refused(asked):
    with pytest.raises(ValueError, match=r"^expected .* found "):
        ANSWERS.min_confidence(**asked)


@pytest.mark.parametrize(
    ("most", "count", "share"), [(0, 1, 0.5), (3, 100, 0.05), (1000, 2000, 0.5), (2000, 2000, 0.1)]
)
def test_the_binomial_tail_is_scipys(most, count, share):
    assert _binomial_tail(most, count, share) == pytest.approx(binom.cdf(most, count, share), rel=1e-9)


def test_sets_correct_for_the_size_of_the_split():
    label_probabilities = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    nine = ValidationAnswers(tuple(label_probabilities), ())
    assert [nine.min_set_probability(error) for error in (0.1, 0.2, 0.25, 0.5)] == [0.1, 0.2, 0.2, 0.5]
    with pytest.raises(ArtifactError, match=r"at least 0\.1, .*9 validation texts allow, found 0\.05"):
        nine.min_set_probability(0.05)
    with pytest.raises(ValueError, match="between 0 and 1"):
        nine.min_set_probability(1.0)
    assert ANSWERS.min_set_probability(0.2) == 0.2  # the label's probability counts, not the wrong answer's


def test_sets_miss_the_label_of_new_texts_as_seldom_as_is_said():
    generator, missed = np.random.default_rng(3), []
    for _ in range(200):
        least = noted(*drawn(generator, 99)).min_set_probability(0.1)
        probabilities, labels = drawn(generator, 100)
        missed.append((confidence(probabilities, labels) < least).mean())
    assert np.mean(missed) == pytest.approx(0.1, abs=0.01)


def test_sets_name_the_most_probable_labels_first_and_may_be_empty():
    probabilities = np.array([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3], [0.1, 0.1, 0.8]], dtype=np.float32)
    assert prediction_sets(probabilities, "abc", 0.3) == [["b", "c"], ["a", "b", "c"], ["c"]]
    assert prediction_sets(probabilities, [1, 2, 3], 0.6) == [[], [], [3]]


@pytest.mark.parametrize(
    "content",
    [
        *([], {}, {"right": []}, {"right": [], "wrong": []}, {"right": 3, "wrong": []}, {"right": ["a"], "wrong": []}),
        *({"right": [value], "wrong": []} for value in (1.2, -0.1, float("nan"), True, None)),
        *({"right": [], "wrong": [value]} for value in (0.5, [0.5], [0.5, 0.1, 0.2], [0.5, 2])),
    ],
)
def test_damaged_answers_are_refused(content):
    with pytest.raises(ValueError, match=r"^expected "):
        ValidationAnswers.parse(content)
