"""The one fit loop. LoRA tuning, distillation and the baseline differ in the loss they hand to it, nothing else."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from potstill.config import TrainingConfig
from potstill.data.examples import UNLABELLED
from potstill.data.tokenised import Batch, TrainingSet, sequential_batches, shuffled_batches
from potstill.errors import TrainingError
from potstill.training.progress import progress_bar, report_epoch, scores, warn_nothing_learnt
from potstill.training.schedule import learning_rate_factor, make_optimizer

Record = dict[str, Any]
"""One line of history.jsonl. `learning_rate` is the one of the epoch's last step; the speeds are those of training."""


class Loss(Protocol):
    """What a model is fitted to."""

    def __call__(self, outputs: Any, batch: Batch, /) -> dict[str, Tensor]:
        """Return `loss` and its parts, means over the batch, from what the model returns in training."""

    def score(self, outputs: Tensor, data: TrainingSet, /) -> Record:
        """Return `selection_loss` and the scores of a whole split, from what the model returns in evaluation."""


Indices = NDArray[np.int64]


def evaluation_tokens(fabric: Fabric) -> int:
    """Return how many tokens a batch without gradients holds: enough to keep the device busy.

    On a CPU no more than that, so that the activations stay in its caches.
    """
    return 1024 if fabric.device.type == "cpu" else 32_768


@dataclass(frozen=True)
class FitResult:
    """What came of a fit.

    Attributes:
        history: One record per epoch, as in history.jsonl.
        best: The record of the epoch whose weights the model now holds.
        seconds: Time spent in all, evaluation included.
    """

    history: tuple[Record, ...]
    best: Record
    seconds: float


def fit(
    model: nn.Module,
    train: TrainingSet,
    selection: TrainingSet,
    loss: Loss,
    config: TrainingConfig,
    *,
    fabric: Fabric,
    seed: int,
    history_file: Path,
    save: Callable[[], None],
    title: str,
    b_ratio: float = 1.0,
    on_epoch: Callable[[Record], object] | None = None,
) -> FitResult:
    """Train `model` and leave it with the weights of its best epoch.

    Args:
        model: Maps (input_ids, attention_mask) to logits; what requires no gradient stays as it is.
        train: What gradients come from.
        selection: What decides the best epoch and when to stop.
        loss: The objective.
        config: Epochs, optimiser, schedule, stopping.
        fabric: Device and precision.
        seed: Decides batches and dropout. Same seed, same machine, same numbers.
        history_file: Gets one JSON record per epoch; its directory is made if need be.
        save: Writes the model; called whenever an epoch is the best so far, so that an interruption loses little.
        title: What the progress bar calls this fit.
        b_ratio: See `make_optimizer`.
        on_epoch: Gets every epoch's record, after `save`; what it raises ends the fit there and goes to the caller.

    Raises:
        TrainingError: The loss is no longer finite.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    plans = [plan_epoch(train.tokens.lengths, config, generator) for _ in range(config.epochs)]
    steps = sum(math.ceil(len(plan) / config.accumulation) for plan in plans)
    learner = Learner(model, loss, config, steps, fabric, b_ratio=b_ratio)
    best = _BestEpoch(model, config.metric)
    history: list[Record] = []
    started = time.perf_counter()
    history_file.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar() as progress, history_file.open("w", encoding="utf-8") as lines:
        task = progress.add_task(title, total=steps, loss="", scores="")
        for epoch, batches in enumerate(plans, start=1):
            try:
                trained = learner.train(
                    train, batches, lambda value: progress.update(task, advance=1, loss=f"loss {value:.3f}")
                )
                record = {"epoch": epoch, **trained, **learner.evaluate(selection), **learner.pace(train)}
            except FloatingPointError as error:
                raise TrainingError(
                    f"{title}: {error} in epoch {epoch} at learning rate {learner.learning_rate:.2e}\n"
                    f"  what to do: lower the learning rate or set clip_norm; {best.whereabouts}"
                ) from None
            history.append(record)
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            improved = best.offer(record)
            progress.update(task, scores=scores(record, selection.majority_share))
            report_epoch(title, record, config.epochs, selection.majority_share, improved=improved)
            if improved:
                save()
            if on_epoch is not None:
                on_epoch(record)
            if config.patience is not None and epoch - best.record["epoch"] >= config.patience:
                break
    best.restore()
    if best.record.get("mcc", 1.0) <= 0.0:
        warn_nothing_learnt(title, selection.majority_share)
    return FitResult(tuple(history), best.record, time.perf_counter() - started)


def plan_epoch(lengths: Indices, config: TrainingConfig, generator: np.random.Generator) -> list[Indices]:
    """Plan an epoch's batches as `config` has it, for texts of these `lengths` in tokens; see `shuffled_batches`."""
    return shuffled_batches(lengths, config.batch_size, generator, by_tokens=config.batch_by == "tokens")


@torch.no_grad()
def predict_logits(model: nn.Module, data: TrainingSet, fabric: Fabric, *, title: str | None = None) -> Tensor:
    """Classify all texts without gradients.

    Args:
        model: Maps (input_ids, attention_mask) to logits; put into evaluation mode.
        data: The texts.
        fabric: Device and precision.
        title: Name for a progress bar; None: no bar.

    Returns:
        Logits in the texts' order, float32, on the CPU, (texts, classes).
    """
    model.eval()
    parts: list[Tensor] = []
    order: list[Indices] = []
    # What is compiled is compiled for training; a graph of its own for this would cost more than it gains.
    with progress_bar(shown=title is not None) as progress, torch.compiler.set_stance("force_eager"):
        task = progress.add_task(title or "", total=len(data), loss="", scores="")
        for indices in sequential_batches(data.tokens.lengths, evaluation_tokens(fabric)):
            batch = data.batch(indices).to(fabric.device)
            with fabric.autocast():
                parts.append(model(*batch.inputs).float().cpu())
            order.append(indices)
            progress.update(task, advance=len(indices))
    logits = torch.cat(parts)
    return torch.empty_like(logits).index_copy_(0, torch.from_numpy(np.concatenate(order)), logits)


class Learner:
    """A model with its loss, optimiser and schedule: what takes steps.

    Its methods raise FloatingPointError where a loss is not finite; `fit` knows the epoch and tells the user.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, config: TrainingConfig, steps: int, fabric: Fabric, *, b_ratio: float
    ) -> None:
        optimizer = make_optimizer(model, config, b_ratio=b_ratio)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(config, steps))
        self._model, self._optimizer = fabric.setup(model, optimizer)  # the same weights behind device and precision
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._loss, self._config, self._fabric = loss, config, fabric
        self.learning_rate = config.learning_rate
        """Learning rate of the latest step."""
        self._seconds = 0.0

    def train(self, data: TrainingSet, batches: Sequence[Indices], on_step: Callable[[float], None]) -> Record:
        """Go through `batches` once; return the mean over the texts of the loss and its parts."""
        started = time.perf_counter()
        self._model.train()
        seen: list[dict[str, Tensor]] = []
        for first in range(0, len(batches), self._config.accumulation):
            seen += self._step(data, batches[first : first + self._config.accumulation])
            on_step(float(seen[-1]["loss"]))
        labelled = [int((data.labels[batch] != UNLABELLED).sum()) for batch in batches]
        means = _weighted_means(seen, [len(batch) for batch in batches], labelled)
        self._seconds = time.perf_counter() - started
        return {f"train_{name}": mean for name, mean in means.items()}

    def evaluate(self, data: TrainingSet) -> Record:
        """Score a split."""
        record = self._loss.score(predict_logits(self._model, data, self._fabric), data)
        _require_finite(record["selection_loss"], "the loss on the selection split")
        return record

    def pace(self, data: TrainingSet) -> Record:
        """Tell how the latest `train`, which was on `data`, went forward."""
        return {
            "learning_rate": self.learning_rate,
            "seconds": self._seconds,
            "tokens_per_second": len(data.tokens.ids) / self._seconds,
            "sentences_per_second": len(data) / self._seconds,
        }

    def _step(self, data: TrainingSet, batches: Sequence[Indices]) -> list[dict[str, Tensor]]:
        """Take one optimiser step on the mean over all examples of `batches`; return each batch's loss and parts."""
        self.learning_rate = float(min(self._schedule.get_last_lr()))  # LoRA+ gives B more
        self._optimizer.zero_grad()
        # Batches of equal tokens differ in their number of sentences, which shall count the same all the same.
        by_tokens = self._config.batch_by == "tokens"
        examples = self._config.batch_size * len(batches) if by_tokens else sum(map(len, batches))
        seen: list[dict[str, Tensor]] = []
        for indices in batches:
            batch = data.batch(indices).to(self._fabric.device)
            parts = self._loss(self._model(*batch.inputs), batch)
            _require_finite(parts["loss"].item(), "the loss")  # before the step: the weights stay usable
            self._fabric.backward(parts["loss"] * (len(indices) / examples))
            seen.append({name: value.detach() for name, value in parts.items()})
        if self._config.clip_norm is not None:
            clip_grad_norm_(self._trained, self._config.clip_norm)
        self._optimizer.step()
        self._schedule.step()
        return seen


class _BestEpoch:
    """The best epoch so far, and a copy of what was trained until then."""

    def __init__(self, model: nn.Module, metric: str) -> None:
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._metric = metric
        self._weights: list[Tensor] = []
        self.record: Record = {}

    @property
    def whereabouts(self) -> str:
        """Say what an interruption leaves."""
        return f"the best epoch so far ({self.record['epoch']}) is saved" if self.record else "nothing is saved yet"

    def offer(self, record: Record) -> bool:
        """Keep the model's present weights if `record` is better than all before; say whether it is."""
        if self.record and self._score(record) <= self._score(self.record):
            return False
        self.record = record
        self._weights = [parameter.detach().clone() for parameter in self._trained]
        return True

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model the kept weights; the frozen rest never changed."""
        for parameter, weight in zip(self._trained, self._weights, strict=True):
            parameter.copy_(weight)

    def _score(self, record: Record) -> tuple[float, float]:
        """Return what to maximise; between equal scores (an MCC of 0, say) the lower loss wins."""
        lower_loss = -record["selection_loss"]
        return (lower_loss if self._metric == "loss" else record[self._metric], lower_loss)


def _weighted_means(
    parts: Sequence[dict[str, Tensor]], sizes: Sequence[int], labelled: Sequence[int]
) -> dict[str, float]:
    """Average each named value over batches of different sizes; `ce` is a mean over the labelled texts."""
    means: dict[str, float] = {}
    for name in parts[0]:
        weights = labelled if name == "ce" and any(labelled) else sizes
        values = torch.stack([part[name] for part in parts]).cpu().double().numpy()
        means[name] = float(np.average(values, weights=weights))
    return means


def _require_finite(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(f"{what} is {value}")
