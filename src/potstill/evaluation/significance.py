"""Is one model better than another, or than no model at all?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import binomtest, ttest_rel

from potstill.evaluation.metrics import Classes, Floats, Intervals

SIGNIFICANCE: Final = 0.05
"""The usual bound: with a p-value from here on, chance explains the difference well enough."""


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two models on the same examples.

    Attributes:
        first_only: Examples that the first model alone got right; of texts that may have several classes, those to
            which its answer is the better one.
        second_only: The same of the second model.
        p_value: Chance of a split at least this uneven if both models were equally often right.
    """

    first_only: int
    second_only: int
    p_value: float


@dataclass(frozen=True)
class PairedTest:
    """Paired t-test of two models' scores over the same seeds.

    Attributes:
        seeds: Number of pairs.
        mean_difference: Mean of first minus second.
        p_value: Chance of a mean at least this far from 0 if there were no difference; None with fewer than two seeds,
            or the same difference in each.
    """

    seeds: int
    mean_difference: float
    p_value: float | None


def mcnemar(labels: Classes, first: Classes, second: Classes) -> McNemar:
    """Compare two models' predictions, each (examples,), by the exact two-sided binomial test (McNemar 1947).

    Only examples on which exactly one model is right tell the two apart. Of texts that may have any number of classes,
    (examples, classes), those do for which the F1 of a text's labels differs: a sign test, of which McNemar's is the
    case of answers that are right or wrong.
    """
    scores = _agreement(labels, first), _agreement(labels, second)
    first_only = int(np.count_nonzero(scores[0] > scores[1]))
    second_only = int(np.count_nonzero(scores[1] > scores[0]))
    disagreements = first_only + second_only
    p_value = float(binomtest(first_only, disagreements).pvalue) if disagreements else 1.0
    return McNemar(first_only, second_only, p_value)


def _agreement(labels: Classes, answers: Classes) -> Floats:
    """Return how right each answer is, (examples,): 0 or 1, or the F1 of its labels, 1 where there are none in both."""
    if labels.ndim == 1:
        return np.asarray(labels == answers, dtype=np.float64)
    hits, both = (labels * answers).sum(axis=1), (labels + answers).sum(axis=1)
    return np.asarray(np.divide(2 * hits, both, out=np.ones(len(labels)), where=both > 0))


def paired_test(first: Mapping[int, float], second: Mapping[int, float]) -> PairedTest | None:
    """Compare scores of two models, each by its seed, over the seeds that both have; None where that is none."""
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    scores = [first[seed] for seed in seeds], [second[seed] for seed in seeds]
    differences = np.subtract(*scores)
    # Equal differences leave rounding errors as "variance", hence the tolerance.
    testable = len(differences) > 1 and not np.allclose(differences, differences[0], rtol=0, atol=1e-12)
    p_value = float(ttest_rel(*scores).pvalue) if testable else None
    return PairedTest(len(differences), float(differences.mean()), p_value)


def majority_verdict(intervals: Intervals, majority_label: str) -> str | None:
    """Say so when a model is no better than always answering the majority class; None where it is better.

    The rule: the lower end of the MCC's interval is not above 0. A constant answer has MCC 0 in every bootstrap sample.
    Accuracy would be the wrong measure: with unequal classes a model that tells them apart may be right less often than
    one that always says the same.
    """
    return None if intervals["mcc"][0] > 0 else f'no better than always answering "{majority_label}"'
