"""Saved models on the same texts, from answers that are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from potstill.data import Examples
from potstill.evaluation import Calibration, McNemar, PairedTest, bootstrap_intervals, compute_metrics
from potstill.evaluation.measure import Measurement
from potstill.report.comparison import compare, rows_of, show, to_json

LABELS = np.arange(200) % 2
EXAMPLES = Examples(tuple(f"text {n}" for n in range(len(LABELS))), LABELS)


def measured(wrong: dict[str, int]) -> dict[Path, Measurement]:
    """Make models up by their places, of each how many texts, the last ones, it is wrong on."""
    models = {}
    for place, count in wrong.items():
        predictions = np.where(np.arange(len(LABELS)) < len(LABELS) - count, LABELS, 1 - LABELS)
        logits = np.eye(2, dtype=np.float32)[predictions]
        models[Path(place)] = Measurement(
            logits=logits,
            predictions=predictions,
            metrics=compute_metrics(LABELS, predictions, 2),
            intervals=bootstrap_intervals(LABELS, predictions, 2),
            texts_per_second=1000.0,
            latency_ms=0.5,
            calibration=Calibration.of(logits, LABELS, 1.0),
        )
    return models


def compared(wrong: dict[str, int]) -> dict[tuple[str, str], McNemar | PairedTest]:
    """Return the comparisons by the last two parts of their paths."""
    found = compare(rows_of(measured(wrong)), EXAMPLES)
    return {("/".join(a.directory.parts[-2:]), "/".join(b.directory.parts[-2:])): test for a, b, test in found}


def test_students_are_compared_with_their_baselines_and_others_with_the_first() -> None:
    seeds = {f"run/{role}/seed-{seed}": wrong for role, wrong in (("distilled", 10), ("baseline", 50)) for seed in (0,)}
    tests = compared({"run/teacher/seed-0": 5, **seeds})
    assert tests == {
        ("distilled/seed-0", "baseline/seed-0"): McNemar(40, 0, pytest.approx(0.0, abs=1e-9)),
        ("baseline/seed-0", "teacher/seed-0"): McNemar(0, 45, pytest.approx(0.0, abs=1e-9)),
    }


def test_models_of_several_seeds_are_compared_by_a_paired_test() -> None:
    places = {"baseline/seed-0": 60, "baseline/seed-1": 50, "distilled/seed-0": 30, "distilled/seed-1": 10}
    ((pair, test),) = compared({f"run/{place}": wrong for place, wrong in places.items()}).items()
    assert pair == ("run/distilled", "run/baseline")
    assert isinstance(test, PairedTest)
    assert (test.seeds, test.mean_difference) == (2, pytest.approx(0.35, abs=1e-3))  # MCC is 1 - 2 · wrong / 200 here
    assert not compared({"a/seed-0": 9, "a/seed-1": 8, "b/seed-1": 7, "b/seed-2": 6})  # one seed in common


def test_pair_of_models_is_compared_once() -> None:
    assert list(compared({"run/distilled/seed-0": 9, "run/baseline/seed-0": 10})) == [
        ("distilled/seed-0", "baseline/seed-0")
    ]


def test_interrupted_training_counts_in_no_mean(tmp_path: Path) -> None:
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seed-1" / "student.json").write_text("{}")  # no training.json beside it
    seeds, interrupted = rows_of(measured({f"{tmp_path}/seed-{seed}": 9 for seed in (0, 1, 2)}))
    assert list(seeds.models) == [0, 2]
    assert interrupted.directory == tmp_path / "seed-1"


def test_json_holds_models_and_comparisons() -> None:
    found = to_json(measured({"a": 20, "b": 10}), EXAMPLES)
    assert [(model["model"], model["metrics"]["accuracy"]) for model in found["models"]] == [("a", 0.9), ("b", 0.95)]
    (test,) = found["comparisons"]
    assert (Path(test["model"]).name, Path(test["compared_with"]).name) == ("b", "a")
    assert test["mcnemar"]["first_only"] == 10


def test_table_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    seeds = {
        f"run/{role}/seed-{seed}": n + 2 * seed for role, n in (("baseline", 16), ("distilled", 4)) for seed in (1, 2)
    }
    show(measured({"run/teacher/seed-0": 20, **seeds}), EXAMPLES, ("bad", "good"), "all of texts.csv")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert lines[0] == "200 texts, all of texts.csv"
    table = [" ".join(line.split()) for line in lines]
    assert table[4].startswith("teacher/seed-0 0.900 90.0 % 0.800 –")
    assert table[6].startswith("baseline 0.905 90.5 % 0.810 –")
    assert table[10] == 'always "bad" – 50.0 % 0.000 – –'
    assert lines[-1] == "distilled's MCC is +0.120 from baseline's over 2 seeds (no test)"


def test_scores_of_each_class_and_of_a_positive_one(capsys: pytest.CaptureFixture[str]) -> None:
    show(measured({"a": 20}), EXAMPLES, ("bad", "good"), "all of texts.csv", positive=1)
    out = capsys.readouterr().out
    assert 'F1 of "good"' in out
    assert "recall" in out
    assert "macro" not in out
    good = measured({"a": 20})[Path("a")].metrics.per_class[1]
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert f"good {good.count} {good.precision:.3f} {good.recall:.3f} {good.f1:.3f}" in rows


def test_paths_are_resolved_and_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    show(measured({"x/a/distilled": 9, "x/../x/b/distilled": 8}), EXAMPLES, ("bad", "good"), "all of texts.csv")
    assert "b/distilled alone is right on 1 example, a/distilled alone on 0 (Mc" in capsys.readouterr().out
