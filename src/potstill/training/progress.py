"""What training shows while it runs: a bar on a terminal, a line per epoch everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

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


def report_epoch(title: str, record: dict[str, Any], epochs: int, majority: float, *, improved: bool) -> None:
    """Print one line about an epoch.

    Args:
        title: What the fit is called.
        record: The epoch's record, as in history.jsonl.
        epochs: Number of epochs at most.
        majority: Accuracy of always giving the most frequent answer: what `accuracy` has to be compared with.
        improved: Whether the epoch is the best so far.
    """
    parts = [
        f"{title}  epoch {record['epoch']}/{epochs}",
        _losses(record, "train"),
        _losses(record, "selection"),
        scores(record, majority),
        f"{record['seconds']:.1f} s",
        f"{record['tokens_per_second']:,.0f} tokens/s",
    ]
    if improved:
        parts.append("*best so far")
    print_line("  ".join(parts))


def warn_nothing_learnt(title: str, majority: float) -> None:
    """Say that the best epoch's answers have nothing to do with the labels, whatever its accuracy looks like."""
    print_line(
        f"WARNING: {title} learnt nothing: its best epoch (MCC 0 or below) is no better than always answering the "
        f"majority class, which is right for {majority:.2%} of the selection split. "
        f"Try a higher learning rate, more epochs or more data.",
        style="bold red",
    )


def scores(record: dict[str, Any], majority: float) -> str:
    """Give an epoch's scores: those of a classifier, or a language model's."""
    if "perplexity" in record:
        return f"perplexity {record['perplexity']:.1f}"
    return f"accuracy {record['accuracy']:.2%} (majority class {majority:.2%})  MCC {record['mcc']:.3f}"


def _losses(record: dict[str, Any], split: str) -> str:
    """Give a split's loss, and its parts where it has several."""
    start = f"{split}_"
    text = f"{split} loss {record[f'{split}_loss']:.4f}"
    parts = {name.removeprefix(start): value for name, value in record.items() if name.startswith(start)}
    if len(parts) > 2:  # a cross-entropy alone is the loss
        text += f" ({', '.join(f'{name} {value:.4f}' for name, value in parts.items() if name != 'loss')})"
    return text


def print_line(text: str, style: str | None = None) -> None:
    """Print without folding: in a log file, a line stays a line."""
    if not _silent.get():
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
