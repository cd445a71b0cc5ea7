"""Callbacks of a training: its history, the epoch that is kept, early stopping, progress."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from potstill.config import RuntimeConfig, Settings, TrainingConfig
from potstill.config.training import FEW_VALIDATION_TEXTS
from potstill.console import print_line, progress_bar, warn
from potstill.errors import ArtifactError
from potstill.store.atomic import write_text
from potstill.store.checksums import digest
from potstill.training.base import Callback, Record, State
from potstill.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from potstill.training.deadline import deadline_callbacks
from potstill.training.fit import Trainer
from potstill.training.trackers import trackers

HISTORY_FILE: Final = "history.jsonl"

_UNBALANCED: Final = 0.8
"""Share of the most frequent class from which the labels' loss hardly sees the others."""


def standard_callbacks(
    config: TrainingConfig,
    runtime: RuntimeConfig,
    directory: Path,
    stages: Sequence[Settings] = (),
    *,
    save: Callable[[], None] = lambda: None,
    history: str = HISTORY_FILE,
    checkpoint: str = CHECKPOINT_FILE,
    more: Sequence[Callback] = (),
) -> tuple[Callback, ...]:
    """Return the callbacks of a usual fit, then those of `more`.

    `directory` gets the files `history` and `checkpoint`; it is made if need be. Without `checkpoint_seconds` there are
    no checkpoints; one of other `stages`, settings that decide the result beside those that `fit` sees, is not used.
    `save` writes the model whenever an epoch is the best so far, so that an interruption loses little.
    """
    checkpoints = []
    if runtime.checkpoint_seconds is not None:
        settings = [
            runtime.model_dump_json(exclude={"checkpoint_seconds", "executor", "workers", "teacher_base", "trackers"}),
            *(s.model_dump_json(exclude={"backbone", "tokenizer"}) for s in stages),  # `fit` sees weights and ids
        ]
        checkpoints = [Checkpoint(directory / checkpoint, runtime.checkpoint_seconds, digest(settings))]
    usual = (History(directory / history), KeepBest(config, save), EarlyStopping(config.patience), Progress())
    return (*checkpoints, *deadline_callbacks(), *usual, *trackers(runtime.trackers, directory), *more)


class History(Callback):
    """Writes one JSON record per epoch into a file, whose directory is made if need be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Write the records of the epochs before an interruption."""
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in trainer.history))

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        """Write all records."""
        self.on_fit_begin(trainer)


def parse_history(content: bytes, path: Path) -> tuple[Record, ...]:
    """Read a fit's records, which were found at `path`.

    Raises:
        ArtifactError: They can't be read.
    """
    try:
        return tuple(json.loads(line) for line in content.decode("utf-8").splitlines())
    except ValueError as error:
        raise ArtifactError(
            f"{path}: expected a record of each epoch, found none that can be read ({error})\n"
            f"  what to do: restore the file, or remove {path.parent} to have it trained again"
        ) from None


class KeepBest(Callback):
    """Keeps the weights of the best epoch, or of the last one, and gives them to the model at the end."""

    name = "best"

    def __init__(self, config: TrainingConfig, save: Callable[[], None]) -> None:
        self._config, self._save = config, save
        self._weights: dict[str, Tensor] = {}
        self._trained: dict[str, torch.nn.Parameter] = {}
        self._record: Record = {}

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Note which parameters are trained, and whether answers can be counted."""
        self._trained = trainer.trained
        self._metric = "loss" if len(trainer.data.validation) < FEW_VALIDATION_TEXTS else self._config.metric

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        """Keep a copy of the weights if this epoch is the best so far, and save the model."""
        if self._record and self._score(record) <= self._score(self._record):
            return
        trainer.best = self._record = record
        self._weights = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        self._save()

    @torch.no_grad()
    def on_fit_end(self, trainer: Trainer) -> None:
        """Give the model the kept weights; the frozen ones never changed."""
        for name, weight in self._weights.items():
            self._trained[name].copy_(weight)

    def left(self) -> str:
        """Say which epoch is saved."""
        return f"the best epoch so far ({self._record['epoch']}) is saved" if self._record else ""

    def state(self) -> State:
        """Return record and weights."""
        return {"record": self._record, "weights": self._weights}

    def restore(self, state: State) -> None:
        """Go back to a `state`."""
        self._record = state["record"]
        self._weights = {name: weight.to(self._trained[name].device) for name, weight in state["weights"].items()}

    def _score(self, record: Record) -> tuple[float, float]:
        """Return what to maximise; between equal scores (an MCC of 0, say) the lower loss wins."""
        lower_loss = -record["validation_loss"]
        if self._config.keep == "last":
            return record["epoch"], lower_loss
        return (record | {"loss": lower_loss})[self._metric], lower_loss


class EarlyStopping(Callback):
    """Ends a training after `patience` epochs without a better one; None: never."""

    def __init__(self, patience: int | None) -> None:
        self._patience = patience

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Count the epochs since the best one."""
        if self._patience is not None and trainer.best:
            trainer.should_stop |= len(trainer.history) - trainer.best["epoch"] >= self._patience

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        """See `on_fit_begin`."""
        self.on_fit_begin(trainer)


class Progress(Callback):
    """Shows a bar, and prints a line after each epoch."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Show the bar until the fit ends."""
        self._bar = trainer.stack.enter_context(progress_bar())
        self._task = self._bar.add_task(
            trainer.context.title, total=trainer.total_steps, completed=trainer.steps, loss="", scores=""
        )

    def on_step(self, trainer: Trainer) -> None:
        """Move the bar."""
        loss = f"loss {trainer.loss_value:.3f}"
        self._bar.update(self._task, completed=trainer.steps, total=trainer.total_steps, loss=loss)

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        """Print the losses and scores of the epoch."""
        config = trainer.context.config
        if "perplexity" in record:
            scores = f"perplexity {record['perplexity']:.1f}"
        else:
            majority = trainer.data.validation.majority_share
            scores = f"accuracy {record['accuracy']:.2%} (majority class {majority:.2%})  MCC {record['mcc']:.3f}"
            if "micro_f1" in record:
                scores = f"micro-F1 {record['micro_f1']:.3f}  macro-F1 {record['f1']:.3f}  MCC {record['mcc']:.3f}"
        self._bar.update(self._task, scores=scores)
        parts = [
            f"{trainer.context.title}  epoch {record['epoch']}/{trainer.epochs}",
            _losses(record, "train"),
            _losses(record, "validation"),
            scores,
            f"{record['seconds']:.1f} s",
            f"{record['tokens_per_second']:,.0f} tokens/s",
        ]
        if trainer.best is record and config.keep == "best":
            parts.append("*best so far")
        print_line("  ".join(parts))

    def on_fit_end(self, trainer: Trainer) -> None:
        """Warn if the epoch that is kept is no better than always giving the same answer."""
        if trainer.best.get("mcc", 1.0) <= 0.0:
            majority = trainer.data.validation.majority_share
            is_unbalanced = majority > _UNBALANCED and trainer.context.config.class_weights == "none"
            first = "`class_weights: balanced`, since the other classes are rare, then " if is_unbalanced else ""
            warn(
                f"{trainer.context.title} learnt nothing: the epoch that is kept (MCC 0 or below) is no better than "
                f"always answering the majority class, which is right for {majority:.2%} of the validation split. Try "
                f"{first}another learning rate (a lower one where the loss has grown), more epochs or more data."
            )


def _losses(record: Record, split: str) -> str:
    start = f"{split}_"
    parts = {name.removeprefix(start): value for name, value in record.items() if name.startswith(start)}
    text = f"{split} loss {parts.pop('loss'):.4f}"
    if len(parts) > 1:  # a cross-entropy alone is the loss
        text += f" ({', '.join(f'{name} {value:.4f}' for name, value in parts.items())})"
    return text
