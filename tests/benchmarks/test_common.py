"""What the benchmarks compute from what they measured; they themselves are run by hand."""

import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def common(script):
    return script("common")


def test_each_runs_once_a_round_in_alternating_order(common):
    runs = common.in_turn({"plain": lambda n: {"value": n}, "ours": lambda n: {"value": -n}}, rounds=3)
    assert [run["name"] for run in runs] == ["plain", "ours", "ours", "plain", "plain", "ours"]
    assert [run["value"] for run in runs] == [0, 0, -1, 1, 2, -2]


def test_ratios_compare_runs_of_the_same_round_and_size(common):
    speeds = {("plain", 0, 10): 2.0, ("ours", 0, 10): 6.0, ("plain", 1, 10): 4.0, ("ours", 1, 10): 4.0}
    speeds |= {("plain", 0, 20): 1.0, ("ours", 0, 20): 2.0}
    runs = [{"name": name, "round": n, "sentences": size, "v": v} for (name, n, size), v in speeds.items()]
    assert common.ratios(runs, "v") == {"vs_plain": {"median": 2.0, "min": 1.0, "max": 3.0}}
    assert common.ratios(runs, "v", inverse=True)["vs_plain"]["median"] == 0.5


def test_what_an_earlier_call_finished_is_not_done_again_unless_settings_differ(common, tmp_path):
    trained = []

    def train(name, seed):
        trained.append((name, seed))
        return {"name": name, "seed": seed, "value": len(trained)}

    wanted = [("a", 0), ("b", 0), ("a", 1)]
    first = common.finished(tmp_path / "runs" / "f.jsonl", wanted[:2], lambda name: name, train, 1)
    assert [run["value"] for run in first] == [1, 2]
    second = common.finished(tmp_path / "runs" / "f.jsonl", wanted, lambda name: name, train, 1)
    assert [run["value"] for run in second] == [1, 2, 3]
    third = common.finished(tmp_path / "runs" / "f.jsonl", wanted[:2], lambda name: name.upper(), train, 1)
    assert [run["value"] for run in third] == [4, 5]


def test_a_sample_draws_every_batch_with_the_same_probability(common):
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 30, size=100)
    plan = np.split(np.arange(100), range(8, 100, 8))  # 13 batches, the last one incomplete
    drawn = np.zeros(13)
    for _ in range(2000):
        batches = common.sample_batches(plan, lengths, 4, generator)
        sizes = [len(batch) for batch in batches]
        assert sizes == sorted(sizes, reverse=True)
        drawn[[batch[0] // 8 for batch in batches]] += 1
    assert drawn.sum() == 2000 * 4
    np.testing.assert_allclose(drawn / 2000, 4 / 13, atol=0.05)


def test_without_a_count_the_sample_is_the_whole_plan(common):
    plan = np.split(np.arange(20), [8, 16])
    batches = common.sample_batches(plan, np.ones(20, dtype=np.int64), None, np.random.default_rng(0))
    assert sorted(np.concatenate(batches)) == list(range(20))


def test_peak_memory_is_that_of_the_command(common):
    """Not that of this process, which is larger by far."""
    megabytes = 64
    small = common.peak_memory([sys.executable, "-c", "pass"])
    large = common.peak_memory([sys.executable, "-c", f"b'x' * {megabytes << 20}"])
    assert small < 60
    assert large - small == pytest.approx(megabytes, abs=8)
