from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from potstill.evaluation import bootstrap_intervals, compute_metrics


def noisy(count: int, num_classes: int, error_rate: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, count)
    wrong = (labels + generator.integers(1, num_classes, count)) % num_classes
    return labels, np.where(generator.random(count) < error_rate, wrong, labels)


def test_multinomial_draw_equals_resampling_examples() -> None:
    labels, predictions = noisy(200, 2, 0.3, seed=1)
    generator = np.random.default_rng(2)
    drawn = [generator.integers(0, 200, 200) for _ in range(1000)]
    expected = np.quantile([matthews_corrcoef(labels[i], predictions[i]) for i in drawn], (0.025, 0.975))

    assert bootstrap_intervals(labels, predictions, 2)["mcc"] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("num_classes", [2, 77])
def test_intervals_hold_the_estimate_and_depend_on_the_seed_alone(num_classes: int) -> None:
    labels, predictions = noisy(527, num_classes, 0.25, seed=3)
    metrics = compute_metrics(labels, predictions, num_classes)

    intervals = bootstrap_intervals(labels, predictions, num_classes, seed=5)

    assert intervals == bootstrap_intervals(labels, predictions, num_classes, seed=5)
    assert intervals != bootstrap_intervals(labels, predictions, num_classes, seed=6)
    for name, (low, high) in intervals.items():
        assert low < getattr(metrics, name) < high
