from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, matthews_corrcoef

from potstill.evaluation import Calibration
from potstill.evaluation.calibration import (
    TEMPERATURES,
    ReliabilityBin,
    best_threshold,
    expected_calibration_error,
    expected_labels,
    fit_temperature,
    fit_threshold,
    pool,
    reliability,
)

SEEDS = st.integers(0, 2**32 - 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def drawn(temperature: float, classes: int, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels from a softmax; return its logits times `temperature`, and them."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (count, classes))
    labels = (generator.random((count, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)
    return temperature * logits, labels


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.055, 0.4, 1.0, 3.0, 18.0])
def test_temperature_of_drawn_labels_is_found(temperature: float, classes: int) -> None:
    logits, labels = drawn(temperature, classes)

    found = fit_temperature(logits.astype(np.float32), labels)

    assert found == pytest.approx(temperature, rel=0.05)
    before, after = Calibration.of(logits, labels), Calibration.of(logits, labels, found)
    assert after.nll <= before.nll
    assert after.ece < 0.015
    assert before.ece > 0.1 or temperature == 1.0


@pytest.mark.parametrize("temperature", [0.045, 22.0])
def test_temperature_beyond_the_bounds_is_1(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature, 2)) == 1.0


@given(SEEDS, st.integers(2, 4), st.integers(1, 40))
def test_no_temperature_on_a_grid_has_a_lower_loss(seed: int, classes: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(0, 3, (count, classes)), generator.integers(0, classes, count)

    found = fit_temperature(logits, labels)

    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]
    losses = [Calibration.of(logits, labels, temperature).nll for temperature in np.geomspace(*TEMPERATURES, 60)]
    if found == 1.0:
        assert min(losses) in (losses[0], losses[-1])  # it falls on
    else:
        loss = Calibration.of(logits, labels, found).nll
        assert loss <= min(losses) + 1e-6
        assert loss < min(losses[0], losses[-1])


def test_temperature_is_1_where_the_loss_has_no_minimum() -> None:
    """Equal logits; no mistake, or nothing but mistakes: no T is large or small enough."""
    assert fit_temperature(np.zeros((4, 2)), np.array([0, 1, 1, 1])) == 1.0
    logits = np.array([[0.3, -0.1], [-0.2, 0.1]])
    for margin in (1.0, 5.0, 30.0, 500.0):  # the largest leave a loss of 0 at any T
        assert fit_temperature(margin * logits, np.array([0, 1])) == 1.0
    assert fit_temperature(logits, np.array([1, 0])) == 1.0


def naive_error(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, equation 3, text by text."""
    error = 0.0
    for m in range(1, bins + 1):
        inside = []
        for row, label in zip(probabilities, labels, strict=True):
            if (m - 1) / bins < max(row) <= m / bins:
                inside.append((max(row), row.argmax() == label))
        if inside:
            confidence, accuracy = (sum(values) / len(inside) for values in zip(*inside, strict=True))
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    return error


@given(SEEDS, st.integers(2, 5), st.integers(1, 60), st.integers(1, 20))
def test_calibration_error_equals_a_naive_loop(seed: int, classes: int, count: int, bins: int) -> None:
    generator = np.random.default_rng(seed)
    # Twentieths lie on the edges of bins; so do those of other numbers of bins now and then.
    probabilities = generator.multinomial(20, generator.dirichlet(np.ones(classes)), count) / 20
    labels = generator.integers(0, classes, count)

    found = reliability(probabilities, labels, bins)

    assert expected_calibration_error(found) == pytest.approx(naive_error(probabilities, labels, bins))
    assert sum(item.count for item in found) == count
    assert all(item.index / bins - 1e-12 <= item.confidence <= (item.index + 1) / bins + 1e-12 for item in found)


def test_likelihood_equals_scikit_learn() -> None:
    logits, labels = drawn(2.0, 3, count=500)

    found = Calibration.of(logits, labels, temperature=1.7)

    probabilities = softmax(logits / 1.7)
    assert found.nll == pytest.approx(log_loss(labels, probabilities))
    assert found.ece == pytest.approx(naive_error(probabilities, labels, 15))


def test_certain_mistake_has_a_finite_likelihood() -> None:
    assert Calibration.of(np.array([[2000.0, 0.0]], dtype=np.float32), np.array([1])).nll == pytest.approx(2000.0)


def test_pooled_halves_equal_the_whole() -> None:
    logits, labels = drawn(2.0, 2, count=400)
    probabilities = softmax(logits)

    together = pool([reliability(probabilities[:100], labels[:100]), reliability(probabilities[100:], labels[100:])])

    for found, expected in zip(together, reliability(probabilities, labels), strict=True):
        assert vars(found) == pytest.approx(vars(expected))
    assert pool([[ReliabilityBin(3, 0.25, 0.5, 2)]]) == (ReliabilityBin(3, 0.25, 0.5, 2),)


def brute_force(probabilities: np.ndarray, labels: np.ndarray) -> float:
    values = sorted(set(probabilities.tolist()))
    candidates = sorted({0.5, *((low + high) / 2 for low, high in pairwise(values))})
    scores = [matthews_corrcoef(labels, probabilities > threshold) for threshold in candidates]
    best = [c for c, score in zip(candidates, scores, strict=True) if score >= max(scores) - 1e-9]
    return min(best, key=lambda threshold: abs(threshold - 0.5))


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(SEEDS, st.integers(1, 40), st.sampled_from([4, 100, 10**6]))
def test_threshold_equals_brute_force(seed: int, count: int, steps: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    places = np.clip(generator.integers(0, steps + 1, count) + labels * steps // 3, 0, steps)
    probabilities = (places / steps).astype(np.float32)  # with few steps many are equal, and some 0 or 1

    found = best_threshold(probabilities, labels)

    assert found == brute_force(probabilities.astype(np.float64), labels)
    assert 0 < found < 1


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        ([0.9, 0.2], [1, 1]),  # one class alone: every threshold scores 0
        ([0.3, 0.3], [0, 1]),  # no threshold parts them
        ([0.45, 0.6, 0.65], [0, 1, 1]),  # it is among the best
    ],
)
def test_threshold_is_one_half_without_a_better_one(probabilities: list[float], labels: list[int]) -> None:
    assert best_threshold(np.array(probabilities), np.array(labels)) == 0.5


def test_rounding_breaks_no_tie() -> None:
    """Above 0.85 are 2 of 6 and 0 of 4, above 0.57 are 4 of 6 and 1 of 4: both MCCs are 1 / sqrt(6)."""
    probabilities = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.54, 0.3, 0.2, 0.1, 0.05])
    labels = np.array([1, 1, 0, 1, 1, 0, 0, 0, 1, 1])

    assert best_threshold(probabilities, labels) == pytest.approx(0.57)


@pytest.mark.parametrize(("slope", "offset"), [(0.5, -1.0), (1.0, 0.0), (30.0, 4.0)])
def test_sigmoid_of_drawn_labels_is_found(slope: float, offset: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1 / slope, (20_000, 2))
    probable = softmax(np.stack([np.zeros(20_000), slope * (logits[:, 1] - logits[:, 0]) + offset], axis=1))[:, 1]
    labels = (generator.random(20_000) < probable).astype(np.int64)

    found = expected_labels(logits.astype(np.float32), labels)

    np.testing.assert_allclose(found, probable, atol=0.02)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e30])
def test_separable_labels_stay_uncertain(size: float) -> None:
    logits, labels = size * np.array([[1.0, -1.0], [0.5, -0.5], [-0.5, 0.5], [-2.0, 2.0]]), np.array([0, 0, 1, 1])

    expected = expected_labels(logits, labels)

    assert 0 < expected[0] < 0.4 < 0.6 < expected[3] < 1
    assert 0.35 < best_threshold(softmax(logits / size)[:, 1], expected) < 0.65


@pytest.mark.parametrize(
    ("difference", "labels"),
    [([2.0, 1.0, -1.0, -3.0], [0, 0, 1, 1]), ([1.0, 1.0, 1.0, 1.0], [0, 1, 0, 1]), ([0.3, 2.0], [1, 1])],
)
def test_uninformative_logits_leave_the_threshold_at_one_half(difference: list[float], labels: list[int]) -> None:
    logits = np.stack([np.zeros(len(labels)), difference], axis=1)

    assert fit_threshold(logits, np.array(labels)) == 0.5


def test_threshold_follows_the_temperature() -> None:
    logits, labels = normal_scores(np.random.default_rng(0), 1000)

    cold, warm = (fit_threshold(logits, labels, temperature) for temperature in (0.5, 2.0))

    odds = [np.log(value / (1 - value)) * temperature for value, temperature in ((cold, 0.5), (warm, 2.0))]
    assert odds[0] == pytest.approx(odds[1], abs=0.01)


def test_expected_threshold_is_nearer_to_the_truth_than_the_counted_one() -> None:
    """Labels are drawn from two normal distributions; what the thresholds are worth is known without drawing."""
    generator = np.random.default_rng(0)
    logits, labels = normal_scores(generator, 200_000)
    truth = best_threshold(softmax(logits)[:, 1], labels)
    errors = []
    for _ in range(40):
        logits, labels = normal_scores(generator, 400)
        probabilities = softmax(logits)[:, 1]
        found = best_threshold(probabilities, labels), fit_threshold(logits, labels)
        errors.append([abs(threshold - truth) for threshold in found])

    best, expected = np.mean(errors, axis=0)

    assert expected < best / 2


def normal_scores(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels, 70 % of class 1, and logits whose difference tells them apart roughly: an MCC of 0.4."""
    labels = (generator.random(count) < 0.7).astype(np.int64)
    return np.stack([np.zeros(count), generator.normal(1.2 * labels, 1.0)], axis=1), labels


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([], [], "two equally long vectors"),
        ([0.1, 0.2], [0], "two equally long vectors"),
        ([0.1, 1.2], [0, 1], r"in \[0, 1\]"),
        ([0.1, np.nan], [0, 1], r"in \[0, 1\]"),
        ([0.1, 0.2], [0, -1], r"in \[0, 1\]"),
    ],
)
def test_best_threshold_refuses_bad_input(probabilities: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_threshold(np.array(probabilities), np.array(labels, dtype=np.int64))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 2)), [], "found"),
        (np.zeros((2, 2)), [0], "labels"),
        (np.zeros(2), [0, 1], "logits"),
        (np.array([[0.0, np.inf]]), [0], "finite"),
        (np.zeros((2, 2)), [0, 2], r"0\.\.1, found 0\.\.2"),
        (np.zeros((2, 2)), [-1, 0], r"0\.\.1, found -1\.\.0"),
    ],
)
def test_calibration_refuses_bad_input(logits: np.ndarray, labels: list[int], message: str) -> None:
    for function in (fit_temperature, Calibration.of, expected_labels, fit_threshold):
        with pytest.raises(ValueError, match=message):
            function(logits, np.array(labels, dtype=np.int64))
