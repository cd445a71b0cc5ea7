"""Progress in log files and on terminals."""

from __future__ import annotations

import contextvars

import pytest

from potstill import console


class Clock:
    """A clock that stands still until it is told to go on."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def work(monkeypatch):
    """Something to do: ten steps, each of so many seconds."""
    clock = Clock()
    monkeypatch.setattr("potstill.console.time.monotonic", clock)

    def count(seconds):
        with console.counted("labelling", 10_000) as advance:
            for _ in range(10):
                clock.now += seconds
                advance(1000)

    return count


def test_log_has_a_line_a_minute(work, capsys):
    work(seconds=25)
    told = capsys.readouterr().err.splitlines()
    assert [line.split(", 0:")[0] for line in told] == [f"labelling: {count},000 of 10,000" for count in (3, 6, 9)]


def test_short_work_and_silenced_work_print_nothing(work, capsys):
    work(seconds=5)
    with console.silence():
        work(seconds=100)
    assert capsys.readouterr().err == ""


def test_line_has_remaining_time_loss_and_scores(monkeypatch, capsys):
    monkeypatch.setattr(console, "_LINE_SECONDS", 0.0)
    with console.progress_bar() as progress:
        progress.get_time = iter(range(0, 10_000, 45)).__next__  # slow steps
        task = progress.add_task("teacher 0", total=100, loss="", scores="")
        for _ in range(2):
            progress.update(task, advance=20, loss="loss 0.512", scores="MCC 0.41")
    assert capsys.readouterr().err.splitlines()[-1] == "teacher 0: 40 of 100, 0:02:15 left, loss 0.512, MCC 0.41"


def test_hidden_bars_leave_lines(monkeypatch, work, capsys):
    contextvars.copy_context().run(lambda: (console.hide_bars(), work(seconds=100)))
    assert len(capsys.readouterr().err.splitlines()) == 10


def test_terminal_has_a_bar(monkeypatch, work, capsys):
    monkeypatch.setattr(console, "console", type(console.console)(force_terminal=True, stderr=True, width=80))
    work(seconds=100)
    shown = capsys.readouterr().err
    assert "10000/10000" in shown
    assert "labelling: 3,000" not in shown


def test_steps_estimate_the_remaining_time(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr("potstill.console.time.monotonic", clock)
    steps = console.Steps(dict(zip("abcdef", [2400.0, 2400.0, None, 1200.0, 1200.0, 1200.0], strict=True)), apart=2)
    for title in "abcdef":
        if title == "c":
            steps.enter()
        steps.begin(title)
        clock.now += 4800 if title in "ab" else 0  # twice as long as estimated; students run at once
    assert capsys.readouterr().err.splitlines() == [
        "step 1 of 6: a, about 2 hours and 20 minutes left",
        "step 2 of 6: b, about 3 hours and 20 minutes left",
        "step 4 of 6: d, about 2 hours and 0 minutes left",
        "step 5 of 6: e, about 1 hour and 20 minutes left",
        "step 6 of 6: f, about 40 minutes left",
    ]


def test_control_characters_are_escaped(monkeypatch, capsys):
    console.print_line("label \x1b[2J")
    assert capsys.readouterr().err == "label \\u001b[2J\n"
