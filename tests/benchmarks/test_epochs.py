"""What `benchmarks/epochs.py` makes of the logits of several epochs."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def epochs(script):
    return script("epochs")


def test_compare_scores_each_way_on_the_other_half(epochs):
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    margins = np.stack([weight * (2 * labels - 1) + generator.normal(size=400) for weight in (3.0, 1.0, 0.0)])
    logits = [np.stack([-margin, margin], axis=1).astype(np.float32) for margin in margins]
    losses = [np.full(400, value, dtype=np.float32) for value in (2.0, 1.0, 3.0)]

    found = epochs.compare(logits, losses, labels)

    assert (found["mcc_epoch"], found["loss_epoch"], found["last_epoch"]) == (1.0, 2.0, 3.0)
    assert found["mcc"] > 0.95 > found["loss"] > 0.6 > 0.2 > abs(found["last"])
