"""What the benchmarks compute from what they measured; they themselves are run by hand."""

import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def common(script):
    return script("common")


def test_alternate_reverses_every_second_round(common):
    runs = common.alternate({"plain": lambda n: {"value": n}, "ours": lambda n: {"value": -n}}, rounds=3)
    assert [run["name"] for run in runs] == ["plain", "ours", "ours", "plain", "plain", "ours"]
    assert [run["value"] for run in runs] == [0, 0, -1, 1, 2, -2]


def test_ratios_compare_runs_of_the_same_round_and_size(common):
    speeds = {("plain", 0, 10): 2.0, ("ours", 0, 10): 6.0, ("plain", 1, 10): 4.0, ("ours", 1, 10): 4.0}
    speeds |= {("plain", 0, 20): 1.0, ("ours", 0, 20): 2.0}
    runs = [{"name": name, "round": n, "sentences": size, "v": v} for (name, n, size), v in speeds.items()]
    by = ("round", "sentences")
    assert common.ratios(runs, "v", by=by) == {"vs_plain": {"median": 2.0, "min": 1.0, "max": 3.0}}
    assert common.ratios(runs, "v", inverse=True, by=by)["vs_plain"]["median"] == 0.5


@pytest.mark.parametrize(
    ("relation", "met"), [("exactly", [False, True, False]), ("at least", [0, 1, 1]), ("at most", [1, 1, 0])]
)
def test_target_is_met_or_missed(common, relation, met):
    assert [common.target("it", 2, found, relation)["met"] for found in (1, 2, 3)] == met


def test_run_json_reads_the_last_line_and_raises_on_failure(common):
    assert common.run_json([sys.executable, "-c", "print('told'); print('[1]')"]) == [1]
    with pytest.raises(RuntimeError, match="wrong"):
        common.run_json([sys.executable, "-c", "raise SystemExit('wrong')"])


def test_sample_batches_puts_incomplete_batches_last(script):
    plan = np.split(np.arange(20), [8, 16])
    batches = script("steps").sample_batches(plan, 3, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    assert sorted(np.concatenate(batches)) == list(range(20))
