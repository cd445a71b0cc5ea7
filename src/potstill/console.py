"""Lines and progress bars beside the results, on standard error."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
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

_silent = ContextVar("silent", default=False)
_without_bars = ContextVar("without_bars", default=False)


def hide_bars() -> None:
    """Draw no bars from now on, but print lines."""
    _without_bars.set(True)


@contextmanager
def silence() -> Iterator[None]:
    """Print nothing inside: for a caller who trains many models and prints a line for each."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def progress_bar() -> Progress:
    """Build a progress bar with the fields `loss` and `scores`, or what prints lines where there is no terminal."""
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
    """Show how much of `total` is done; call what is yielded with what has been done since its last call."""
    with progress_bar() as progress:
        task = progress.add_task(title, total=total, loss="", scores="")
        yield lambda count: progress.update(task, advance=count)


class _ProgressLines(Progress):
    """Prints what a bar would show, in a line every `_LINE_SECONDS`."""

    def __init__(self) -> None:
        # Batches come sorted by length, and some take minutes: the speed is that of all steps so far.
        super().__init__(console=console, disable=True, speed_estimate_period=math.inf)
        self._told = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        if (now := time.monotonic()) - self._told >= _LINE_SECONDS:
            self._told = now
            task = self._tasks[task_id]
            done = f"{task.description}: {task.completed:,.0f} of {task.total:,.0f}"
            left = "" if task.time_remaining is None else f"{timedelta(seconds=round(task.time_remaining))} left"
            print_line(", ".join(filter(None, (done, left, task.fields["loss"], task.fields["scores"]))))


def print_line(text: str, style: str | None = None) -> None:
    """Print without folding: in a log file, a line stays a line."""
    if not _silent.get():
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning."""
    print_line(f"WARNING: {text}", style="bold yellow")


class Steps:
    """Prints which of a run's steps begins, and the time that is left. It can be copied into other processes.

    Without an estimate, the time is that of the steps of the same phase. Where later phases follow, it is the least
    that is left.

    Args:
        phases: By name, for each step whether an earlier call has finished it.
        estimate: Seconds of each step, likewise; None: they are not known. The steps of the last phase may run at once:
            theirs are shares of the time that all of them take.
    """

    def __init__(
        self, phases: Mapping[str, Sequence[bool]], estimate: Mapping[str, Sequence[float]] | None = None
    ) -> None:
        self._phases, self._estimate = phases, estimate
        self._begun = self._started = time.monotonic()

    def enter(self) -> None:
        """Note that a phase begins."""
        self._started = time.monotonic()

    def begin(self, phase: str, index: int, title: str) -> None:
        """Print that the step `index` of a phase begins, counted from 0, unless it was finished before."""
        finished, names = self._phases[phase], list(self._phases)
        if finished[index]:
            return
        before = sum(len(self._phases[name]) for name in names[: names.index(phase)])
        line = f"step {before + index + 1} of {sum(map(len, self._phases.values()))}: {title}"
        if self._estimate is not None:
            line += f", about {roughly(self._left(before, before + index))} left"
        elif done := finished[:index].count(False):
            seconds = (time.monotonic() - self._started) / done * finished[index:].count(False)
            line += f", {'about' if phase == names[-1] else 'at least'} {roughly(seconds)} left"
        print_line(line)

    def _left(self, phase: int, step: int) -> float:
        """Estimate the seconds from the beginning of `step` on, whose phase begins with the step `phase`."""
        finished = [one for steps in self._phases.values() for one in steps]
        seconds = [one for steps in (self._estimate or {}).values() for one in steps]
        planned = [0.0 if done else second for done, second in zip(finished, seconds, strict=True)]
        is_last = phase + len(list(self._phases.values())[-1]) == len(finished)
        over = sum(planned[: phase if is_last else step])  # of steps that run at once it is not known what is over
        elapsed = (self._started if is_last else time.monotonic()) - self._begun
        return sum(planned[step:]) * (elapsed / over if over else 1.0)


def roughly(seconds: float) -> str:
    """Write a duration in hours and minutes; one below two minutes in seconds."""
    if seconds < 100:
        return numbered(max(1, round(seconds)), "second")
    hours, minutes = divmod(round(seconds / 60), 60)
    return (f"{numbered(hours, 'hour')} and " if hours else "") + numbered(minutes, "minute")
