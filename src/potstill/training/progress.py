"""What training tells of its epochs."""

from __future__ import annotations

from typing import Any

from potstill.console import print_line, warn


def report_epoch(title: str, record: dict[str, Any], epochs: int, majority: float, *, improved: bool) -> None:
    """Print one line about an epoch.

    Args:
        title: What the fit is called.
        record: The epoch's record, as in history.jsonl.
        epochs: Number of epochs at most.
        majority: Accuracy of always giving the most frequent answer: what `accuracy` has to be compared with.
        improved: Whether its scores are the best so far.
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
    """Say that the kept epoch's answers have nothing to do with the labels, whatever its accuracy looks like."""
    warn(
        f"{title} learnt nothing: the epoch that is kept (MCC 0 or below) is no better than always answering the "
        f"majority class, which is right for {majority:.2%} of the selection split. "
        f"Try another learning rate (a lower one where the loss has grown), more epochs or more data."
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
