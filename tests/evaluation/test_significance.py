from __future__ import annotations

import numpy as np
import pytest

from potstill.evaluation import bootstrap_intervals, majority_verdict, mcnemar, paired_test


def test_mcnemar_by_hand() -> None:
    labels = np.ones(20, dtype=np.int64)
    first, second = labels.copy(), labels.copy()
    second[:6] = 0  # the first model alone is right on 6 examples, the second on 1
    first[6] = 0

    result = mcnemar(labels, first, second)

    assert (result.first_only, result.second_only) == (6, 1)
    assert result.p_value == pytest.approx(2 * (1 + 7) / 2**7)  # P(at most 1 of 7 fair coins) on both sides
    assert mcnemar(labels, first, first).p_value == 1.0


def test_paired_test_by_hand() -> None:
    result = paired_test({0: 0.3, 1: 0.5, 2: 0.7}, {2: 0.4, 1: 0.3, 0: 0.2, 3: 0.9})

    # What only one of them has is left out.
    # Differences 0.1, 0.2, 0.3: t = 0.2 / (0.1 / sqrt(3)) = 3.464 with 2 degrees of freedom.
    assert result.mean_difference == pytest.approx(0.2)
    assert result.p_value == pytest.approx(1 - 3.4641016 / np.sqrt(2 + 3.4641016**2))


@pytest.mark.parametrize(("first", "second"), [([0.3], [0.2]), ([0.3, 0.4], [0.2, 0.3]), ([0.1, 0.2], [0.1, 0.2])])
def test_paired_test_needs_two_seeds_that_vary(first: list[float], second: list[float]) -> None:
    result = paired_test(dict(enumerate(first)), dict(enumerate(second)))

    assert result is not None
    assert result.p_value is None
    assert result.mean_difference == pytest.approx(first[0] - second[0])


def test_paired_test_needs_common_seeds() -> None:
    assert paired_test({0: 0.1, 1: 0.2}, {2: 0.1}) is None


def test_majority_verdict_of_a_constant_a_guessing_and_a_good_model() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(527) < 0.7).astype(np.int64)
    guesses = (generator.random(527) < 0.7).astype(np.int64)
    good = np.where(generator.random(527) < 0.2, 1 - labels, labels)

    constant, guessing, better = (
        majority_verdict(bootstrap_intervals(labels, predictions, 2), "acceptable")
        for predictions in (np.ones_like(labels), guesses, good)
    )

    assert constant == guessing == 'no better than always answering "acceptable"'
    assert better is None
