"""Lines and progress bars beside the results, on standard error."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Final

from rich import progress as bars
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from potstill.predict.wording import numbered, printable


class SafeConsole(Console):
    """A console that escapes control characters inside what it prints: a terminal would obey those of texts."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of `renderable`, those that hold text escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


console = SafeConsole(stderr=True)
"""Progress goes to standard error, so that standard output holds results alone."""

_LINE_SECONDS: Final = 60.0
"""Time between two lines of progress in a log file, so that the log of a night stays readable."""

_without_bars = ContextVar("without_bars", default=False)


def hide_bars() -> None:
    """Draw no bars from now on, but print lines."""
    _without_bars.set(True)


@contextmanager
def silence() -> Iterator[None]:
    """Print nothing inside: for a caller who trains many models and prints a line for each."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def progress_bar() -> bars.Progress:
    """Build a progress bar with the fields `loss` and `scores`, or what prints lines where there is no terminal."""
    if not console.is_terminal:
        return _ProgressLines()
    return bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[loss]} {task.fields[scores]}"),
        console=console,
        disable=console.quiet or _without_bars.get(),
        transient=True,
    )


@contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done; call what is yielded with what has been done since its last call."""
    with progress_bar() as progress:
        task = progress.add_task(title, total=total, loss="", scores="")
        yield lambda count: progress.update(task, advance=count)


class _ProgressLines(bars.Progress):
    """Prints what a bar would show, in a line every `_LINE_SECONDS`."""

    def __init__(self) -> None:
        # Batches come sorted by length, and some take minutes: the speed is that of all steps so far.
        super().__init__(console=console, disable=True, speed_estimate_period=math.inf)
        self._told = time.monotonic()

    def update(self, task_id: bars.TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        if (now := time.monotonic()) - self._told >= _LINE_SECONDS:
            self._told = now
            task = self._tasks[task_id]
            done = f"{task.description}: {task.completed:,.0f} of {task.total:,.0f}"
            left = "" if task.time_remaining is None else f"{timedelta(seconds=round(task.time_remaining))} left"
            print_line(", ".join(filter(None, (done, left, task.fields["loss"], task.fields["scores"]))))


def print_line(text: str, style: str | None = None) -> None:
    """Print without folding: in a log file, a line stays a line."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning."""
    print_line(f"WARNING: {text}", style="bold yellow")


class Steps:
    """Prints which of a run's steps begins, and about how much time is left. It can be copied into other processes.

    Args:
        seconds: What each step takes by estimate, by its title; None: an earlier call has finished it.
        apart: Steps that come one after the other; those after them may run several at once, each with its share of the
            time that they take together.
    """

    def __init__(self, seconds: Mapping[str, float | None], apart: int) -> None:
        self._seconds, self._apart = seconds, apart
        self._begun = self._entered = time.monotonic()

    def enter(self) -> None:
        """Note that the steps which may run at once begin."""
        self._entered = time.monotonic()

    def begin(self, title: str) -> None:
        """Print that a step begins, unless it was finished before."""
        if self._seconds[title] is None:
            return
        number, planned = list(self._seconds).index(title), [second or 0.0 for second in self._seconds.values()]
        over = sum(planned[: min(number, self._apart)])  # of steps that run at once it is not known what is over
        elapsed = (self._entered if number >= self._apart else time.monotonic()) - self._begun
        left = sum(planned[number:]) * (elapsed / over if over else 1.0)
        print_line(f"step {number + 1} of {len(planned)}: {title}, about {roughly(left)} left")


def roughly(seconds: float) -> str:
    """Write a duration in hours and minutes."""
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return (f"{numbered(hours, 'hour')} and " if hours else "") + numbered(minutes, "minute")
