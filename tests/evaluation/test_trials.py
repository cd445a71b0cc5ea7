"""What follows from a search's trials."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from potstill.evaluation.trials import ALPHA, TEMPERATURE, Rematch, SearchResult, Trial, best_of, pooled_deviation

scores = st.floats(-1, 1).map(lambda value: round(value, 6))


def trial(number, mcc, alpha=0.5, temperature=2.0, seeds=None):
    settings = {ALPHA: alpha, TEMPERATURE: temperature}
    outcome = "stopped" if mcc is None else "finished"
    return Trial(number, outcome, settings, mcc, seeds or {0: mcc or 0.0}, parameters=10, epochs=3, seconds=1.0)


def result(*trials, rematch=None):
    return SearchResult(
        data="rated",
        selection=20,
        teachers=1,
        transfer=0,
        grid=False,
        space={},
        trials=trials,
        rematch=rematch,
        command="potstill search",
    )


def test_the_best_is_the_first_of_equals_and_has_finished():
    assert best_of([trial(1, -0.3), trial(2, None), trial(3, 0.2), trial(4, 0.2)]).number == 3
    assert best_of([trial(1, -0.3), trial(2, -0.1)]).number == 2
    assert best_of([trial(1, None)]) is None
    assert best_of([]) is None


def test_the_trial_at_the_reference_has_exactly_its_alpha_and_temperature():
    found = result(trial(1, 0.1), trial(2, 0.3, alpha=0.51), trial(3, 0.2), trial(4, 0.4, temperature=4.0))
    assert found.at_reference.number == 3
    assert found.best.number == 4
    assert result(trial(1, 0.1, alpha=0.2)).at_reference is None


@given(pairs=st.lists(st.tuples(scores, scores), min_size=2, max_size=8))
def test_the_interval_leaves_0_out_where_the_paired_test_is_significant(pairs):
    best, reference = zip(*pairs, strict=True)
    rematch = Rematch(tuple(range(len(pairs))), best, reference)
    low, high = rematch.interval
    assert low <= rematch.difference <= high
    assert rematch.difference == pytest.approx(np.mean(best) - np.mean(reference), abs=1e-9)
    if np.ptp(np.subtract(best, reference)) > 1e-6:
        p_value = ttest_rel(best, reference).pvalue
        if abs(p_value - 0.05) > 1e-6:
            assert (low > 0 or high < 0) == (p_value < 0.05)


def test_one_seed_has_no_interval():
    assert Rematch((1,), (0.3,), (0.2,)).interval is None


@given(groups=st.lists(st.lists(scores, min_size=2, max_size=5), min_size=1, max_size=4))
def test_the_pooled_deviation_is_that_within_the_groups(groups):
    centred = np.concatenate([np.array(group) - np.mean(group) for group in groups])
    expected = np.sqrt((centred**2).sum() / (len(centred) - len(groups)))
    assert pooled_deviation(groups) == pytest.approx(expected, abs=1e-9)
    assert pooled_deviation([*groups, [0.5]]) == pytest.approx(expected, abs=1e-9)


def test_the_spread_over_seeds_comes_from_trials_and_rematch():
    assert result(trial(1, 0.1), trial(2, 0.5)).seed_spread is None
    twice = trial(1, 0.2, seeds={0: 0.1, 1: 0.3})
    assert result(twice, trial(2, 0.5)).seed_spread == pytest.approx(np.std([0.1, 0.3], ddof=1))
    rematch = Rematch((1, 2), (0.0, 0.2), (0.0, 0.2))  # one group: the best has the reference's alpha and T
    assert result(trial(1, 0.1), rematch=rematch).seed_spread == pytest.approx(np.std([0.0, 0.2], ddof=1))


def test_the_json_tells_what_follows():
    rematch = Rematch((1, 2), (0.4, 0.6), (0.1, 0.2))
    told = json.loads(result(trial(1, 0.1), trial(2, 0.5, alpha=0.9), trial(3, None), rematch=rematch).to_json())
    assert (told["best"], told["at_reference"]) == (2, 1)
    assert told["reference"] == {ALPHA: 0.5, TEMPERATURE: 2.0}
    assert told["trials"][2]["mcc"] is None
    assert told["rematch"]["difference"] == pytest.approx(0.35)
    assert told["rematch"]["interval"][0] < 0.35 < told["rematch"]["interval"][1]
    assert json.loads(result(trial(1, 0.1)).to_json())["rematch"] is None
