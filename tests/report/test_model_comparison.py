"""Saved models side by side, from answers that are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from potstill.data import Examples
from potstill.evaluation import Calibration, bootstrap_intervals, compute_metrics
from potstill.models import Measurement
from potstill.report.comparison import Comparison, show

CLASSES = ("bad", "good")
LABELS = np.arange(200) % 2
EXAMPLES = Examples(tuple(f"text {n}" for n in range(len(LABELS))), LABELS)


def wrong_on(count: int) -> Measurement:
    """Return a model's measurement that is wrong on the last `count` texts."""
    predictions = np.where(np.arange(len(LABELS)) < len(LABELS) - count, LABELS, 1 - LABELS)
    logits = np.eye(2, dtype=np.float32)[predictions]
    return Measurement(
        logits=logits,
        predictions=predictions,
        metrics=compute_metrics(LABELS, predictions, 2),
        intervals=bootstrap_intervals(LABELS, predictions, 2),
        sentences_per_second=1000.0,
        calibration=Calibration.of(logits, LABELS, 1.0),
    )


def compare(wrong: dict[str, int]) -> Comparison:
    """Compare models by their places, of each how many texts it is wrong on."""
    return Comparison.of([Path(place) for place in wrong], [wrong_on(n) for n in wrong.values()], EXAMPLES, CLASSES)


def test_a_runs_students_are_compared_with_its_baselines_and_others_with_the_first() -> None:
    comparison = compare(
        {
            "run/baseline/seed-0": 60,
            "run/baseline/seed-1": 50,
            "run/distilled/seed-0": 30,
            "run/distilled/seed-1": 10,
            "other/seed-1": 40,
            "other/seed-2": 40,
        }
    )

    assert [(row.name, row.opponent) for row in comparison.models] == [
        ("baseline/seed-0", None),
        ("baseline/seed-1", "baseline/seed-0"),
        ("distilled/seed-0", "baseline/seed-0"),
        ("distilled/seed-1", "baseline/seed-1"),
        ("other/seed-1", "baseline/seed-0"),
        ("other/seed-2", "baseline/seed-0"),
    ]
    _, distilled, other = comparison.over_seeds
    assert (distilled.name, distilled.opponent) == ("distilled", "baseline")
    assert distilled.paired_test is not None
    assert distilled.paired_test.seeds == 2
    assert distilled.paired_test.mean_difference == pytest.approx(0.35, abs=1e-3)  # MCC is 1 - 2 · wrong / 200 here
    assert other.paired_test is not None
    assert (other.paired_test.seeds, other.paired_test.p_value) == (1, None)
    assert other.paired_test.mean_difference == pytest.approx(0.1, abs=1e-3)


def test_single_models_and_single_seeds_have_no_spread() -> None:
    assert compare({"model": 10, "exported": 20, "run/seed-0": 30, "other/seed-0": 30}).over_seeds == ()


def test_without_common_seeds_nothing_is_compared() -> None:
    _, other = compare({"a/seed-0": 9, "a/seed-1": 8, "b/seed-2": 7, "b/seed-3": 6}).over_seeds

    assert other.paired_test is None
    assert other.to_json()["seeds"] == [2, 3]


def test_names_grow_until_they_tell_apart() -> None:
    comparison = compare({f"{run}/distilled/seed-{seed}": 9 + seed for run in "ab" for seed in (0, 1)})

    assert [row.name for row in comparison.models][1:3] == ["a/distilled/seed-1", "b/distilled/seed-0"]
    assert [row.name for row in comparison.over_seeds] == ["a/distilled", "b/distilled"]


def test_json_holds_the_spread_over_seeds() -> None:
    first, second = compare({"a/seed-0": 20, "a/seed-1": 40, "b/seed-0": 10, "b/seed-1": 20}).to_json()["over_seeds"]

    assert first["accuracy"] == {"mean": pytest.approx(0.85), "std": pytest.approx(0.1 / 2**0.5), "seeds": (0.9, 0.8)}
    assert (first["compared_with"], first["paired_test"]) == (None, None)
    assert second["compared_with"] == "a"
    assert second["paired_test"]["mean_difference"] == pytest.approx(0.15, abs=1e-3)


def test_what_is_printed_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    comparison = compare(
        {f"{part}/seed-{n}": 9 + wrong + n * n for part, wrong in (("a", 5), ("b", 0)) for n in range(3)}
    )
    show(comparison, "all of texts.csv")

    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "200 texts, all of texts.csv" in printed
    assert "vs a" in printed
    assert "+0.050" in printed


def test_a_model_that_learnt_nothing_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    show(compare({"guess": 100}), "all of texts.csv")

    assert 'guess: no better than always answering "bad"' in capsys.readouterr().out.replace("\n", " ")
