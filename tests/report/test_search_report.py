"""The report of a search: a map for any trials, and words that claim no more than the seeds support."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from potstill.evaluation.trials import ALPHA, TEMPERATURE, Rematch, SearchResult, Trial
from potstill.report.search import heat_map, search_text, settings_words, write_search

SPACE = {
    ALPHA: {"low": 0.0, "high": 1.0},
    TEMPERATURE: {"low": 1.0, "high": 8.0, "log": True},
    "student.hidden_size": {"low": 64, "high": 256, "step": 64},
    "student.cell": {"choices": ["gru", "lstm"]},
    "student.dropout": 0.2,
}


def trial(number, alpha, temperature, mcc, *, hidden_size=64, cell="gru"):
    tried = {ALPHA: alpha, TEMPERATURE: temperature, "student.cell": cell, "student.hidden_size": hidden_size}
    outcome = "stopped" if mcc is None else "finished"
    seeds = {} if mcc is None else {0: mcc}
    return Trial(number, outcome, tried | {"student.dropout": 0.2}, mcc, seeds, 1_234_567, 3, 61.0)


TRIALS = (
    trial(1, 0.5, 2.0, 0.2),
    trial(2, 0.1, 7.5, None),
    trial(3, 0.8, 3.1, 0.31, hidden_size=128, cell="lstm"),
    trial(4, 0.3, 1.2, 0.1),
)


def result(trials=TRIALS, rematch=None, **changes):
    fields = {"data": "rated $x$", "selection": 855, "teachers": 1, "transfer": 0, "grid": False, "space": SPACE}
    return SearchResult(**(fields | changes), trials=trials, rematch=rematch, command="potstill search --out s")


def grid(scores, alphas=(0.0, 0.5), temperatures=(1.0, 2.0, 4.0)):
    points = [(alpha, temperature) for alpha in alphas for temperature in temperatures]
    trials = tuple(trial(n, *point, mcc) for n, (point, mcc) in enumerate(zip(points, scores, strict=True), start=1))
    return result(trials, grid=True, space={})


def text_of(found):
    return search_text(found, found.best, Path("runs/search"))


def test_everything_is_written(tmp_path):
    write_search(result(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"search.json", "trials.csv", "search.md", "alpha-temperature.png"}
    assert (tmp_path / "alpha-temperature.png").read_bytes().startswith(b"\x89PNG")
    assert "](alpha-temperature.png)" in (tmp_path / "search.md").read_text(encoding="utf-8")


def test_without_a_finished_trial_the_numbers_are_written(tmp_path):
    write_search(result((trial(1, 0.5, 2.0, None),)), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"search.json", "trials.csv"}


@settings(max_examples=15)
@given(
    points=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0.1, 50), st.none() | st.floats(-1, 1)), min_size=1, max_size=12
    ).filter(lambda points: any(mcc is not None for _, _, mcc in points))
)
def test_any_trials_can_be_drawn(points):
    trials = tuple(trial(number, *point) for number, point in enumerate(points, start=1))
    heat_map(result(trials)).savefig(io.BytesIO(), format="png", dpi=20)


def test_the_map_marks_the_best_and_the_reference():
    axes = heat_map(result()).axes[0]
    marks = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines()}
    assert marks == {"alpha 0.5, T 2": (0.5, 2.0), "best": (0.8, 3.1)}
    low, high = axes.get_ylim()
    assert low < 1 < 8 < high
    points, crosses = axes.collections[1:]
    assert points.get_offsets().tolist() == [[0.5, 2.0], [0.8, 3.1], [0.3, 1.2]]
    assert crosses.get_offsets().tolist() == [[0.1, 7.5]]


def test_the_background_is_near_its_trials_and_empty_far_from_them():
    axes = heat_map(result()).axes[0]
    shade = axes.collections[0].get_array()  # (rows, columns)
    assert 0.1 <= shade.min() <= shade.max() <= 0.31
    rows, columns = shade.shape
    assert np.ma.getmaskarray(shade)[rows - 1, 0]  # alpha 0, T 8, where nothing finished
    assert shade[round(0.55 * rows), round(0.78 * columns)] > 0.28  # by the best


def test_the_grid_shows_every_cell_and_leaves_failures_empty():
    axes = heat_map(grid([0.1, 0.2, 0.3, None, 0.5, 0.4])).axes[0]
    cells = axes.images[0].get_array()  # (temperatures, alphas)
    assert np.ma.filled(cells, -9).tolist() == [[0.1, -9], [0.2, 0.5], [0.3, 0.4]]
    assert [text.get_text() for text in axes.texts] == ["0.100", "0.200", "0.500", "0.300", "0.400"]
    assert to_hex(axes.texts[0].get_color()) == "#ffffff"  # the lowest cell is dark
    assert to_hex(axes.texts[2].get_color()) == "#000000"
    marks = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines()}
    assert marks == {"alpha 0.5, T 2": (1.0, 1.0), "best": (1.0, 1.0)}


def test_the_reference_stands_between_cells_or_is_left_out():
    between = heat_map(grid([0.1, 0.2, 0.3, 0.4], alphas=(0.4, 0.8), temperatures=(1.0, 4.0))).axes[0]
    x, y = between.get_lines()[0].get_data()
    assert (x[0], y[0]) == pytest.approx((0.25, 0.5))
    outside = heat_map(grid([0.1, 0.2, 0.3, 0.4], alphas=(0.6, 0.8), temperatures=(1.0, 4.0))).axes[0]
    assert [line.get_label() for line in outside.get_lines()] == ["best"]


@pytest.mark.parametrize(
    ("best", "reference", "expected"),
    [
        ((0.50, 0.52, 0.51), (0.30, 0.31, 0.33), "**There is a better one:** alpha 0.8, T 3.1."),
        ((0.50, 0.20, 0.40), (0.30, 0.31, 0.33), "**Nothing better is shown**, as far as 3 seeds can tell"),
        ((0.20, 0.21, 0.19), (0.50, 0.52, 0.49), "**Yes:** they do better than the best trial's alpha 0.8, T 3.1"),
        ((0.90,), (0.10,), "**That can't be said:** two or more seeds are needed"),
    ],
)
def test_the_verdict_follows_the_seeds_that_nothing_was_chosen_on(best, reference, expected):
    text = text_of(result(rematch=Rematch(tuple(range(1, len(best) + 1)), best, reference)))
    assert expected in text
    assert sum(text.count(f"**{word}") for word in ("Yes", "There is", "That", "Nothing")) == 1


def test_the_verdict_gives_both_means_the_difference_and_its_interval():
    text = text_of(result(rematch=Rematch((1, 2, 3), (0.5, 0.2, 0.4), (0.3, 0.31, 0.33))))
    assert "alpha 0.8, T 3.1 reaches MCC 0.367 and alpha 0.5, T 2 0.313; difference 0.053" in text
    assert "95 % interval [-0.333, 0.440]" in text  # 0.0533 ± 4.303 · 0.1557 / √3
    assert "one of up to 0.440 would not have been seen" in text
    assert "its standard deviation is 0.109" in text
    assert "less than 0.301 apart" in text  # 1.96 · √2 · 0.1085


def test_without_other_seeds_nothing_is_claimed():
    text = text_of(result())
    assert "**That can't be said:**" in text
    assert "How far seeds alone move the MCC is not known" in text


def test_a_best_trial_at_the_reference_needs_no_rematch():
    assert "**Yes:** no trial did better" in text_of(result((TRIALS[0], TRIALS[1], TRIALS[3])))
    tie = grid([0.1, 0.3, 0.3, 0.2, 0.3, 0.1])  # another cell came first
    assert tie.best.point == (0.0, 2.0)
    assert "**Yes:** no trial did better" in text_of(tie)


def test_a_grid_compares_its_cells():
    text = text_of(grid([0.1, 0.45, 0.3, 0.2, 0.3, 0.1]))
    assert "the best cell (alpha 0, T 2) has MCC 0.450, the cell alpha 0.5, T 2 0.300; difference 0.150" in text


def test_the_text_says_what_was_searched_and_tried():
    text = text_of(result(transfer=1200))
    assert "Trials: 4 (3 finished, 1 stopped; drawn by Optuna's TPE, at first at random), one student each" in text
    assert "1,200 texts of a transfer set" in text
    assert "the 855 texts of the selection split" in text
    assert "| `student.hidden_size` | 128 | 64 to 256 in steps of 64 |" in text
    assert "| `distillation.temperature` | 3.1 | 1 to 8, by order of magnitude |" in text
    assert "| `student.cell` | lstm | gru, lstm |" in text
    assert "| `student.dropout` | 0.2 | fixed |" in text
    assert "| 3 | 0.310 | 1.2M | 0.8 | 3.1 | lstm | 128 | 1 min 01 s |" in text
    assert "potstill search --out s" in text
    assert "\n| 2 |" not in text  # it was stopped


def test_settings_are_named_shortly_where_that_is_clear():
    assert settings_words({ALPHA: 0.123456, "student.bidirectional": True}) == "alpha 0.123, bidirectional true"
    names = {"student.training.learning_rate": 1e-3, "student.pretraining.learning_rate": None}
    expected = "student.training.learning_rate 0.001, student.pretraining.learning_rate none"
    assert settings_words(names) == expected


def test_the_table_has_a_column_per_seed(tmp_path):
    two = dataclasses.replace(TRIALS[0], seeds={0: 0.1, 4: 0.3})
    write_search(result((two, TRIALS[1])), tmp_path)
    head, first, second = (tmp_path / "trials.csv").read_text(encoding="utf-8").splitlines()
    assert head.startswith("trial,outcome,mcc,mcc seed 0,mcc seed 4,parameters,epochs,seconds,distillation.alpha,")
    assert first.startswith("1,finished,0.2,0.1,0.3,1234567,3,61.0,0.5,2.0,")
    assert second.startswith("2,stopped,,,,1234567,3,61.0,0.1,7.5,")
