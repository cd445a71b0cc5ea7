"""What everything says beside its results: lines and progress bars, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)
"""Progress goes to standard error, so that standard output holds results alone."""

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


def progress_bar(*, shown: bool = True) -> Progress:
    """Build a progress bar with the free fields `loss` and `scores`.

    Nothing is drawn where standard error is no terminal, or where it is not to be `shown`, or within `silence`.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[scores]}"),
        console=console,
        disable=not shown or _silent.get() or _without_bars.get() or not console.is_terminal,
        transient=True,
    )


def print_line(text: str, style: str | None = None) -> None:
    """Print without folding: in a log file, a line stays a line."""
    if not _silent.get():
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a line that is not to be overlooked."""
    print_line(f"WARNING: {text}", style="bold yellow")
