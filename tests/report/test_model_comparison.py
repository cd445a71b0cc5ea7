"""Saved models side by side, from answers that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from potstill.data import Examples
from potstill.evaluation import Calibration, McNemar, bootstrap_intervals, compute_metrics
from potstill.evaluation.measure import Measurement
from potstill.experiment.saved import is_finished
from potstill.report.comparison import Comparison, ModelRow, SeedsRow, show

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
        texts_per_second=1000.0,
        calibration=Calibration.of(logits, LABELS, 1.0),
    )


def compare(wrong: dict[str, int]) -> Comparison:
    """Compare models by their places, of each how many texts it is wrong on."""
    return Comparison.of([Path(place) for place in wrong], [wrong_on(n) for n in wrong.values()], EXAMPLES, CLASSES)


def opponents(rows: Sequence[ModelRow | SeedsRow]) -> dict[str, str | None]:
    """Return what each is compared with, by the last two parts of their paths."""
    return {tail(row.directory): None if row.opponent is None else tail(row.opponent) for row in rows}


def tail(directory: Path) -> str:
    return "/".join(directory.parts[-2:])


def test_students_are_compared_with_their_baselines_and_others_with_the_first() -> None:
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

    assert opponents(comparison.models) == {
        "baseline/seed-0": None,
        "baseline/seed-1": "baseline/seed-0",
        "distilled/seed-0": "baseline/seed-0",
        "distilled/seed-1": "baseline/seed-1",
        "other/seed-1": "baseline/seed-0",
        "other/seed-2": "baseline/seed-0",
    }
    assert comparison.models[3].mcnemar == McNemar(40, 0, pytest.approx(0.0, abs=1e-9))
    _, distilled, other = comparison.over_seeds
    assert opponents([distilled]) == {"run/distilled": "run/baseline"}
    assert distilled.paired_test is not None
    assert distilled.paired_test.seeds == 2
    assert distilled.paired_test.mean_difference == pytest.approx(0.35, abs=1e-3)  # MCC is 1 - 2 · wrong / 200 here
    assert other.paired_test is not None
    assert (other.paired_test.seeds, other.paired_test.p_value) == (1, None)
    assert other.paired_test.mean_difference == pytest.approx(0.1, abs=1e-3)


def test_first_model_and_its_baseline_are_compared_once() -> None:
    comparison = compare({f"run/{role}/seed-{seed}": 9 + seed for role in ("distilled", "baseline") for seed in (0, 1)})

    assert opponents(comparison.over_seeds) == {"run/distilled": "run/baseline", "run/baseline": None}
    assert opponents(comparison.models) == {
        "distilled/seed-0": "baseline/seed-0",
        "distilled/seed-1": "baseline/seed-1",
        "baseline/seed-0": None,
        "baseline/seed-1": "distilled/seed-0",
    }


def test_directories_are_resolved() -> None:
    places = ("run/distilled/seed-0", "run/distilled/../distilled/seed-1", "x/../run/baseline/seed-0")
    comparison = compare(dict.fromkeys(places, 9))

    (distilled,) = comparison.over_seeds
    assert sorted(distilled.models) == [0, 1]
    assert opponents([distilled]) == {"run/distilled": "run/baseline"}
    assert comparison.models[0].opponent == Path("x/../run/baseline/seed-0")


def test_interrupted_training_is_left_out_of_means(tmp_path: Path) -> None:
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seed-1" / "student.json").write_text("{}")  # no training.json beside it
    assert not is_finished(tmp_path / "seed-1")

    (row,) = compare({f"{tmp_path}/seed-{seed}": 9 for seed in (0, 1, 2)}).over_seeds

    assert list(row.models) == [0, 2]


def test_without_common_seeds_nothing_is_compared() -> None:
    _, other = compare({"a/seed-0": 9, "a/seed-1": 8, "b/seed-2": 7, "b/seed-3": 6}).over_seeds

    assert other.paired_test is None
    assert other.to_json()["seeds"] == [2, 3]


def test_names_are_as_long_as_needed(capsys: pytest.CaptureFixture[str]) -> None:
    runs = ("x/a/distilled", "x/b/distilled", "x/c")
    comparison = compare({f"{run}/seed-{seed}": 9 + seed for run in runs for seed in (0, 1)})

    show(comparison, "all of texts.csv")
    printed = capsys.readouterr().out
    assert " b/distilled/seed-0 " in printed
    assert " a/distilled " in printed
    assert " c/seed-0 " in printed  # what is not mistaken keeps its short name


def test_json_holds_the_spread_over_seeds() -> None:
    first, second = compare({"a/seed-0": 20, "a/seed-1": 40, "b/seed-0": 10, "b/seed-1": 20}).to_json()["over_seeds"]

    assert first["accuracy"] == {"mean": pytest.approx(0.85), "std": pytest.approx(0.1 / 2**0.5), "seeds": (0.9, 0.8)}
    assert (first["compared_with"], first["paired_test"]) == (None, None)
    assert second["compared_with"] == first["directory"] == str(Path("a").resolve())
    assert second["paired_test"]["mean_difference"] == pytest.approx(0.15, abs=1e-3)


def test_tables_fit_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    wrong = {"first/seed-0": 20, "first/seed-1": 24, "run/baseline/seed-1": 18, "run/baseline/seed-2": 12}
    show(compare(wrong | {f"run/distilled/seed-{seed}": 5 + seed * seed for seed in (1, 2, 3)}), "all of texts.csv")

    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "200 texts, all of texts.csv"
    table = [" ".join(line.split()) for line in lines[4:10]]
    assert table[0] == "first 2 89.0 % 0.780 0.890 – –"
    assert table[2] == "baseline 2 92.5 % 0.850 0.925 +0.060 –"
    assert table[3].endswith("1 shared")
    assert table[4] == "distilled 3 95.2 % 0.903 0.952 +0.075 p = 0.344"
    assert table[5].startswith("vs baseline ±")


def test_model_no_better_than_the_majority_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    show(compare({"guess": 100}), "all of texts.csv")

    assert 'guess: no better than always answering "bad"' in capsys.readouterr().out.replace("\n", " ")
