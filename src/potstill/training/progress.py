"""What training shows while it runs: a bar on a terminal, a line per epoch everywhere."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)
"""Progress goes to standard error, so that standard output holds results alone."""


def progress_bar(*, shown: bool = True) -> Progress:
    """Build a progress bar with the free fields `loss` and `scores`.

    Nothing is drawn where standard error is no terminal, or where it is not to be `shown`.
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
        disable=not (shown and console.is_terminal),
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
        f"accuracy {record['accuracy']:.2%} (majority class {majority:.2%})",
        f"MCC {record['mcc']:.3f}",
        f"{record['seconds']:.1f} s",
        f"{record['tokens_per_second']:,.0f} tokens/s",
    ]
    if improved:
        parts.append("*best so far")
    _print_line("  ".join(parts))


def warn_nothing_learnt(title: str, majority: float) -> None:
    """Say that the best epoch's answers have nothing to do with the labels, whatever its accuracy looks like."""
    _print_line(
        f"WARNING: {title} learnt nothing: its best epoch (MCC 0 or below) is no better than always answering the "
        f"majority class, which is right for {majority:.2%} of the selection split. "
        f"Try a higher learning rate, more epochs or more data.",
        style="bold red",
    )


def _losses(record: dict[str, Any], split: str) -> str:
    """Give a split's loss, and its parts where it has two."""
    text = f"{split} loss {record[f'{split}_loss']:.4f}"
    if f"{split}_kl" in record:
        text += f" (ce {record[f'{split}_ce']:.4f}, kl {record[f'{split}_kl']:.4f})"
    return text


def _print_line(text: str, style: str | None = None) -> None:
    """Print without folding: in a log file, a line stays a line."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
