"""What a log file shows of long work."""

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
        with console.counted("judging", 10_000) as advance:
            for _ in range(10):
                clock.now += seconds
                advance(1000)

    return count


def test_a_line_a_minute_says_how_far_things_are(work, capsys):
    work(seconds=25)
    told = capsys.readouterr().err.splitlines()
    assert [line.split(", 0:")[0] for line in told] == [f"judging: {count},000 of 10,000" for count in (3, 6, 9)]


def test_short_work_is_not_talked_about(work, capsys):
    work(seconds=5)
    assert capsys.readouterr().err == ""


def test_nothing_is_told_in_silence(work, capsys):
    with console.silence():
        work(seconds=100)
    assert capsys.readouterr().err == ""


def test_a_line_tells_loss_scores_and_the_time_that_is_left(monkeypatch, capsys):
    monkeypatch.setattr(console, "_LINE_SECONDS", 0.0)
    with console.progress_bar() as progress:
        progress.get_time = iter(range(0, 10_000, 45)).__next__  # slow steps
        task = progress.add_task("teacher 0", total=100, loss="", scores="")
        for _ in range(2):
            progress.update(task, advance=20, loss="loss 0.512", scores="MCC 0.41")
    assert capsys.readouterr().err.splitlines()[-1] == "teacher 0: 40 of 100, 0:02:15 left, loss 0.512, MCC 0.41"


def test_processes_beside_each_other_write_lines_too(monkeypatch, work, capsys):
    contextvars.copy_context().run(lambda: (console.hide_bars(), work(seconds=100)))
    assert len(capsys.readouterr().err.splitlines()) == 10


def test_a_terminal_has_a_bar_instead(monkeypatch, work, capsys):
    monkeypatch.setattr(console, "console", type(console.console)(force_terminal=True, stderr=True, width=80))
    work(seconds=100)
    shown = capsys.readouterr().err
    assert "10000/10000" in shown
    assert "judging: 3,000" not in shown
