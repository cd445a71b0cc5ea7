"""What everything says beside its results: lines and progress bars, on standard error."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)
"""Progress goes to standard error, so that standard output holds results alone."""

_LINE_SECONDS: Final = 60.0
"""Time between two lines of progress in a log file: whoever looks sees soon that something goes on, and the log of a
night stays readable."""

_silent = ContextVar("silent", default=False)
_without_bars = ContextVar("without_bars", default=False)


def hide_bars() -> None:
    """Draw no bars from now on, but print lines."""
    _without_bars.set(True)


@contextmanager
def silence() -> Iterator[None]:
    """Show nothing of what is trained inside: for a caller who trains many models and tells of each in a line."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def progress_bar() -> Progress:
    """Build a progress bar with the free fields `loss` and `scores`; nothing of it is shown within `silence`.

    Where standard error is no terminal, a line says from time to time how far things are.
    """
    if not console.is_terminal:
        return _ProgressLines()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[scores]}"),
        console=console,
        disable=_silent.get() or _without_bars.get(),
        transient=True,
    )


@contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done, while inside; what is yielded takes how much has been done since."""
    with progress_bar() as progress:
        task = progress.add_task(title, total=total, loss="", scores="")
        yield lambda count: progress.update(task, advance=count)


class _ProgressLines(Progress):
    """What a bar would show, as a line every `_LINE_SECONDS`."""

    def __init__(self) -> None:
        # Batches come sorted by length, some steps take minutes: only all that has been seen tells what is left.
        super().__init__(console=console, disable=True, speed_estimate_period=math.inf)
        self._told = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Note how far a task is, and say so if it is time."""
        super().update(task_id, **changes)
        if (now := time.monotonic()) - self._told >= _LINE_SECONDS:
            self._told = now
            print_line(_line(self._tasks[task_id]))


def _line(task: Task) -> str:
    """Say how far a task with a total is."""
    left = "" if task.time_remaining is None else f"{timedelta(seconds=round(task.time_remaining))} left"
    done = f"{task.description}: {task.completed:,.0f} of {task.total:,.0f}"
    return ", ".join(filter(None, (done, left, task.fields["loss"], task.fields["scores"])))


def print_line(text: str, style: str | None = None) -> None:
    """Print without folding: in a log file, a line stays a line."""
    if not _silent.get():
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a line that is not to be overlooked."""
    print_line(f"WARNING: {text}", style="bold yellow")
