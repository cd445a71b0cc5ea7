"""Scores, tests, thresholds and calibration where a text may have any number of classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import (
    f1_score,
    label_ranking_average_precision_score,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from potstill.data import Examples
from potstill.evaluation import Calibration, bootstrap_intervals, compute_metrics, mcnemar
from potstill.evaluation.calibration import best_threshold, fit_temperature, fit_thresholds
from potstill.evaluation.details import cases
from potstill.predict.decision import confidence, predict_class, sigmoid


def made(texts: int = 3000, classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits, of rarer and rarer classes, and labels that have just these probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(-np.arange(classes), 2.0, (texts, classes)).astype(np.float32)
    return logits, (random.random(logits.shape) < expit(logits)).astype(np.int8)


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(2, 6), st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_metrics_agree_with_scikit_learn(classes: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, predictions = random.integers(0, 2, (2, count, classes)).astype(np.int8)
    scores = random.random((count, classes))

    metrics = compute_metrics(labels, predictions, classes, scores)

    occurring = np.flatnonzero((labels + predictions).any(axis=0))
    assert metrics.accuracy == pytest.approx((labels == predictions).all(axis=1).mean())
    assert metrics.micro_f1 == pytest.approx(f1_score(labels, predictions, average="micro", zero_division=0))
    macro = f1_score(labels, predictions, average="macro", labels=occurring, zero_division=0) if len(occurring) else 0
    assert metrics.f1 == pytest.approx(macro)
    own = [matthews_corrcoef(labels[:, one], predictions[:, one]) for one in occurring]
    assert metrics.mcc == pytest.approx(np.mean(own) if own else 0.0)
    assert metrics.ranking_precision == pytest.approx(label_ranking_average_precision_score(labels, scores))
    expected = precision_recall_fscore_support(labels, predictions, zero_division=0)
    found = [(one.precision, one.recall, one.f1, one.count) for one in metrics.per_class]
    np.testing.assert_allclose(found, np.transpose(expected))


def test_always_the_same_answer_has_no_mcc_in_any_sample() -> None:
    labels = made()[1]
    answers = np.tile(np.array([1, 0, 1, 0, 0, 0]), (len(labels), 1))
    assert compute_metrics(labels, answers, 6).mcc == 0.0
    assert bootstrap_intervals(labels, answers, 6)["mcc"] == (0.0, 0.0)


def test_intervals_are_those_of_drawing_texts() -> None:
    logits, labels = made(400)
    answers = (logits > 0).astype(np.int8)
    random = np.random.default_rng(1)
    draws = (random.integers(0, 400, 400) for _ in range(1000))
    scores = [compute_metrics(labels[drawn], answers[drawn], 6).micro_f1 for drawn in draws]
    np.testing.assert_allclose(
        bootstrap_intervals(labels, answers, 6)["micro_f1"], np.quantile(scores, (0.025, 0.975)), atol=0.01
    )


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), "two arrays"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "two arrays"),
        (np.zeros((2, 3)), np.full((2, 3), -1), "must be 0 or 1"),
    ],
)
def test_what_are_no_label_sets_is_refused(labels: np.ndarray, predictions: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_metrics(labels.astype(np.int8), predictions.astype(np.int8), 3)


def test_sign_test_counts_the_texts_with_the_better_labels() -> None:
    labels = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1]])
    first = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]])  # F1 1, 1, 2/3, 0
    second = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 1, 0]])  # F1 2/3, 0, 2/3, 2/3
    result = mcnemar(labels, first, second)
    assert (result.first_only, result.second_only, result.p_value) == (2, 1, 1.0)
    single = mcnemar(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([1, 1, 1]))
    assert single == mcnemar(np.eye(2)[[0, 1, 1]], np.eye(2)[[0, 1, 0]], np.eye(2)[[1, 1, 1]])


def test_thresholds_beat_one_half_and_keep_both_kinds_of_f1() -> None:
    logits, labels = made(seed=1)
    thresholds = fit_thresholds(logits, labels)
    assert len(thresholds) == 6
    assert all(0 < one < 1 for one in thresholds)
    others, truth = made(seed=2)
    tuned, half = (compute_metrics(truth, predict_class(sigmoid(others), at), 6) for at in (thresholds, (0.5,) * 6))
    assert tuned.micro_f1 > half.micro_f1
    assert tuned.f1 > half.f1 + 0.02
    common = best_threshold(sigmoid(logits).ravel(), labels.ravel(), "f1")
    of_all = compute_metrics(truth, predict_class(sigmoid(others), (common,) * 6), 6)
    assert tuned.f1 > of_all.f1
    assert tuned.micro_f1 > of_all.micro_f1 - 0.02


def test_a_class_without_texts_has_a_threshold() -> None:
    logits, labels = made()
    labels[:, 3] = 0
    assert 0 < fit_thresholds(logits, labels)[3] < 1


@pytest.mark.parametrize("score", ["mcc", "f1"])
def test_best_threshold_is_the_best_of_all(score: str) -> None:
    logits, labels = made(60, 1)
    shares, truth = sigmoid(logits)[:, 0], labels[:, 0]
    measure = matthews_corrcoef if score == "mcc" else f1_score
    tried = [measure(truth, shares > at) for at in (0.0, *shares)]  # all that can differ
    found = measure(truth, shares > best_threshold(shares, truth, score))
    assert found == pytest.approx(max(tried))


def test_temperature_is_found_and_helps() -> None:
    logits, labels = made()
    found = fit_temperature(3 * logits, labels)
    assert found == pytest.approx(3.0, rel=0.05)
    before, after = (Calibration.of(3 * logits, labels, temperature) for temperature in (1.0, found))
    assert after.ece < 0.01 < before.ece
    assert after.nll < before.nll
    p = sigmoid(logits)
    expected = sum(log_loss(labels[:, one], p[:, one]) for one in range(6))
    assert Calibration.of(logits, labels).nll == pytest.approx(expected, rel=1e-4)


def test_reliability_counts_every_class_of_every_text() -> None:
    logits, labels = made(500)
    bins = Calibration.of(logits, labels).bins
    assert sum(one.count for one in bins) == 3000
    assert sum(one.count * one.accuracy for one in bins) == pytest.approx(labels.sum())


def test_cases_name_label_sets_with_their_probabilities() -> None:
    examples = Examples(("a", "b"), np.array([[1, 0, 1], [0, 0, 0]], dtype=np.int8))
    answers = np.array([[1, 0, 0], [0, 0, 0]])
    probabilities = np.array([[0.9, 0.2, 0.4], [0.1, 0.5, 0.0]])
    first, second = cases(examples, [0, 1], ("x", "y", "z"), probabilities, answers, answers)
    assert (first.label, first.answer, first.teacher) == ("x, z", "x", "x")
    assert first.label_probability == pytest.approx(0.9 * 0.8 * 0.4)
    assert first.answer_probability == pytest.approx(0.9 * 0.8 * 0.6)
    assert (second.label, second.answer) == ("no class", "no class")
    assert confidence(probabilities, answers)[1] == pytest.approx(0.9 * 0.5)
