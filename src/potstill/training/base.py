"""What a fit consists of: the loss, the callbacks, the two splits, the context and the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lightning_fabric import Fabric
from torch import Tensor

from potstill.config import TrainingConfig
from potstill.data.tokenised import Batch, TrainingSet

if TYPE_CHECKING:
    from potstill.training.fit import Trainer

State = dict[str, Any]
"""The state of a training between two steps: it may hold dictionaries, tensors and what JSON can say."""

Record = dict[str, Any]
"""The results of one epoch: one line of history.jsonl. `learning_rate` is that of the epoch's last step."""


class Loss(Protocol):
    """What a model is fitted to."""

    def __call__(self, outputs: Any, batch: Batch, /) -> dict[str, Tensor]:
        """Return `loss` and its parts, each a mean over the batch, from what the model returns in training.

        The part `ce` is a mean over the texts that have a label.
        """

    def score(self, outputs: Tensor, data: TrainingSet, /) -> Record:
        """Return `validation_loss` and the scores of a whole split, from what the model returns in evaluation."""


class Callback:
    """Runs beside a training, at the moments that its hooks name. The hooks of this base do nothing."""

    name: str = ""
    """Checkpoints keep its `state` under this name; empty: it has none."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Run once, before the first step."""

    def on_step(self, trainer: Trainer) -> None:
        """Run after each optimiser step."""

    def on_validation_batch(self, trainer: Trainer) -> None:
        """Run after each batch of the validation split."""

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        """Run after each epoch."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Run once, after the last epoch."""

    def left(self) -> str:
        """Say what is left on disk if the training breaks down now; empty: nothing."""
        return ""

    def state(self) -> State:
        """Return what it needs to go on after an interruption."""
        return {}

    def restore(self, state: State) -> None:
        """Go back to a `state`."""


@dataclass(frozen=True)
class Splits:
    """What a model is fitted with: `train` gives gradients, `validation` decides which epoch is kept."""

    train: TrainingSet
    validation: TrainingSet


@dataclass(frozen=True)
class FitContext:
    """Everything around a fit but model, data and loss.

    Attributes:
        seed: Decides batches and dropout. Same seed, same machine, same numbers.
        title: What messages call this fit.
        callbacks: Called in this order; see `callbacks.standard_callbacks`.
        max_microbatch_tokens: A batch with more tokens, padding included, is computed in parts of at most that many, or
            of one text, to spare memory. Their gradients add up to that of the whole. None: all at once.
    """

    config: TrainingConfig
    fabric: Fabric
    seed: int
    title: str
    callbacks: tuple[Callback, ...] = ()
    max_microbatch_tokens: int | None = None


@dataclass(frozen=True)
class FitResult:
    """The result of a fit: one record per epoch, that of the epoch whose weights the model holds, and the time."""

    history: tuple[Record, ...]
    best: Record
    seconds: float
