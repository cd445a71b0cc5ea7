from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import Console

from potstill.console import SafeConsole
from potstill.evaluation import Spread, Summary
from potstill.report import summary_table
from potstill.report.tables import Cell, ResultTable, classes, duration, magnitude, model_table, percent, seed_table

MakeSummary = Callable[..., Summary]


def test_terminal_table_fits_80_columns(make_summary: MakeSummary) -> None:
    summary = make_summary()
    console = Console(width=80)

    with console.capture() as capture:
        console.print(summary_table(summary))

    text = capture.get()
    low, high = summary.of("teacher")[0].intervals["mcc"]
    assert f"[{low:.3f}, {high:.3f}]" in text  # in one piece: neither wrapped nor taken for markup
    assert "134.5M" in text


def test_several_seeds_show_their_spread_and_one_its_interval(make_summary: MakeSummary) -> None:
    _, _, teacher, distilled, _, majority = model_table(make_summary(seeds=(0, 1, 2))).to_markdown().splitlines()

    assert "±" not in teacher
    assert "[" in teacher
    assert "(3 seeds)" in distilled
    assert "±" in distilled
    assert majority == '| always "acceptable" | 0 | 0 | – | 0.409 | 69.3 % | 0.000 | – | – | – | – |'


def test_calibration_is_shown_with_its_spread(make_summary: MakeSummary) -> None:
    summary = make_summary(seeds=(0, 1, 2))
    ece = Spread.of([model.calibration.ece for model in summary.of("distilled")])
    teacher = summary.of("teacher")[0].calibration

    models, seeds = (table(summary).to_markdown().splitlines() for table in (model_table, seed_table))

    assert f"| {percent(ece.mean)} ± {percent(ece.std).removesuffix(' %')} |" in models[3]
    assert f"| {percent(teacher.ece)} | {teacher.nll:.3f} |" in seeds[2]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (950, "950"), (999_960, "1.0M"), (627_970, "628.0k"), (134_515_008, "134.5M"), (1_500_000_000, "1.5B")],
)
def test_magnitudes_are_readable(count: int, text: str) -> None:
    assert magnitude(count) == text


def test_escaped_control_characters_have_room() -> None:
    table = ResultTable(("class", "\x1b[1mF1"), ((Cell("\x1b[1mgood"), Cell("0.5")), (Cell("\x1b[1mgreat"), Cell("1"))))
    console = SafeConsole(width=80)
    with console.capture() as capture:
        console.print(table.to_rich())
    shown = capture.get()
    assert all(name in shown for name in (r"\u001b[1mF1", r"\u001b[1mgood", r"\u001b[1mgreat"))


def test_only_the_first_of_many_classes_are_named() -> None:
    assert classes(["no", "yes"]) == '"no", "yes"'
    assert classes(list("abcdefgh")).endswith('"g", "h"')
    assert classes(list("abcdefghij")).endswith('"g", "h" and 2 more')


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.345, "2.3 s"), (45.2, "45 s"), (1810, "30 min 10 s"), (3600 * 2 + 300, "2 h 05 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
