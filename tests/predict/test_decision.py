import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.predict.decision import named, predict_class, probabilities_of, sigmoid, softmax


@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(1, 5), st.sampled_from([0.05, 1.0, 20.0]))
def test_softmax_is_its_formula(seed, texts, classes, temperature):
    logits = np.random.default_rng(seed).normal(0, 5, (texts, classes)).astype(np.float32)
    odds = np.exp(logits.astype(np.float64) / temperature)
    found = softmax(logits, temperature)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, odds / odds.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-7)


def test_large_logits_do_not_overflow():
    np.testing.assert_array_equal(softmax(np.array([[3e4, -3e4]], dtype=np.float32), 0.05), [[1.0, 0.0]])


@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(1, 5), st.sampled_from([0.05, 1.0, 20.0]))
def test_sigmoid_is_its_formula(seed, texts, classes, temperature):
    logits = np.random.default_rng(seed).normal(0, 5, (texts, classes)).astype(np.float32)
    found = sigmoid(logits, temperature)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits.astype(np.float64) / temperature)), atol=2e-7)
    np.testing.assert_array_equal(probabilities_of(logits, temperature, (0.5,) * classes), found)
    np.testing.assert_array_equal(probabilities_of(logits, temperature, 0.5), softmax(logits, temperature))


def test_each_class_has_its_own_threshold():
    answers = predict_class(np.array([[0.3, 0.3], [0.2, 0.6], [0.1, 0.1]]), (0.2, 0.5))
    assert answers.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert named(answers, ("a", "b")) == [["a"], ["b"], []]
    assert named(np.array([1, 0]), ("a", "b")) == ["b", "a"]


@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=1))
def test_threshold_half_is_argmax(shares):
    second = np.array([*shares, 0.5], dtype=np.float32)
    probabilities = np.stack([1 - second, second], axis=1)
    assert predict_class(probabilities, 0.5).tolist() == predict_class(probabilities).tolist()


@pytest.mark.parametrize("side", [0.0, 1.0])
def test_thresholds_are_not_rounded_to_float32(side):
    probability = np.float32(0.3)
    threshold = float(np.nextafter(np.float64(probability), side))
    assert np.float32(threshold) == probability
    assert predict_class(np.array([[1 - probability, probability]]), threshold).tolist() == [int(side == 0.0)]
