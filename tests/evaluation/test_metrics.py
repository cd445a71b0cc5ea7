from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_recall_fscore_support

from potstill.evaluation import compute_metrics


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(2, 9), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_metrics_agree_with_scikit_learn(num_classes: int, count: int, seed: int) -> None:
    labels, predictions = np.random.default_rng(seed).integers(0, num_classes, (2, count))

    metrics = compute_metrics(labels, predictions, num_classes)

    assert metrics.accuracy == pytest.approx(accuracy_score(labels, predictions))
    assert metrics.mcc == pytest.approx(matthews_corrcoef(labels, predictions))
    assert metrics.f1 == pytest.approx(f1_score(labels, predictions, average="macro", zero_division=0))
    classes = range(num_classes)
    expected = precision_recall_fscore_support(labels, predictions, labels=classes, zero_division=0)
    found = [(one.precision, one.recall, one.f1, one.count) for one in metrics.per_class]
    np.testing.assert_allclose(found, np.transpose(expected))
    assert metrics.majority_accuracy == np.bincount(labels).max() / count
    assert metrics.count == count


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([], [], "equally long"),
        ([0, 1], [0], "equally long"),
        ([0, 2], [0, 1], r"labels must be in 0\.\.1"),
        ([0, 1], [-1, 1], r"predictions must be in 0\.\.1"),
    ],
)
def test_values_outside_the_classes_are_refused(labels: list[int], predictions: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_metrics(np.array(labels, dtype=np.int64), np.array(predictions, dtype=np.int64), 2)
