"""The one fit loop: LoRA tuning, distillation and the baseline hand it different losses and differ in nothing else."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import clip_grad_norm_

from potstill.data.encoded import is_labelled
from potstill.data.tokenised import shuffled_batches
from potstill.errors import TrainingError
from potstill.training import parallel
from potstill.training.base import FitContext, FitResult, Loss, Record, Splits, State
from potstill.training.inference import memory_explained, predict_logits
from potstill.training.schedule import learning_rate_factor, make_optimizer

Indices = NDArray[np.int64]

_LISTED: Final = 32
"""Texts that an error message lists: a batch of usual size."""


def fit(model: nn.Module, data: Splits, loss: Loss, context: FitContext) -> FitResult:
    """Train `model`, which then holds the weights of the epoch that is kept.

    It is called with a batch's `inputs`; what it returns goes to `loss`, in evaluation as one tensor with a row for
    each text. Parameters that require no gradient stay as they are.

    Raises:
        TrainingError: The loss is no longer finite, or memory is used up.
        ArtifactError: The disk is full.
        Stopped: Ctrl-C or SIGTERM, where signals are handled; a checkpoint is written first.
    """
    torch.manual_seed(context.seed + parallel.rank())
    trainer = Trainer(model, data, loss, context)
    with trainer.stack:
        trainer.notify("on_fit_begin")
        while not (trainer.should_stop or trainer.is_over):
            trainer.run_epoch()
        trainer.notify("on_fit_end")
    return FitResult(tuple(trainer.history), trainer.best or trainer.history[-1], trainer.seconds)


class Trainer:
    """A model with its data, loss and optimiser, and the progress of its training.

    Attributes:
        trained: The parameters that are trained, by dotted name.
        epochs: Passes over the training data, at most: those of the settings, or more for `min_steps`.
        history: The records of the finished epochs.
        best: The record of the epoch to keep, so far; set by `callbacks.KeepBest`.
        steps: Optimiser steps taken.
        total_steps: Steps of all epochs; `end_after` sets another number.
        loss_value: The latest loss.
        should_stop: A callback sets it to end the training after this epoch.
        stack: Callbacks enter contexts there that last until the fit ends, or fails.
    """

    def __init__(self, model: nn.Module, data: Splits, loss: Loss, context: FitContext) -> None:
        config, generator = context.config, np.random.default_rng(context.seed)
        self.model, self.data, self.context, self._loss = model, data, context, loss
        lengths, accumulated = data.train.tokens.lengths, config.gradient_accumulation_steps
        steps = math.ceil(len(lengths) / (config.batch_size * accumulated))
        self.epochs = max(config.epochs, math.ceil(config.min_steps / steps))
        self._epochs: list[list[list[Indices]]] = []  # batches of each step of each epoch
        for _ in range(self.epochs):
            batches = shuffled_batches(lengths, config.batch_size, generator)
            self._epochs.append([batches[first : first + accumulated] for first in range(0, len(batches), accumulated)])
        self.total_steps = sum(map(len, self._epochs))
        self._factor = learning_rate_factor(config, self.total_steps)
        optimizer = make_optimizer(model, config)
        self._groups, self._moments = optimizer.param_groups, optimizer.state
        self._wrapped, self._optimizer = context.fabric.setup(model, optimizer)  # the same weights
        self.trained = trained_parameters(model)
        self.history: list[Record] = []
        self.best: Record = {}
        self.steps = 0
        self.loss_value = math.nan
        self.should_stop = False
        self.stack = ExitStack()
        self._learning_rate = config.learning_rate
        self._sums: dict[str, float] = defaultdict(float)  # loss and parts, over the epoch's texts so far
        self._epoch_seconds = 0.0
        self._batch: Indices | None = None  # being computed
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time spent in all, before an interruption too."""
        return time.perf_counter() - self._started

    @property
    def is_over(self) -> bool:
        """Whether all steps are taken and scored; an interruption may come between."""
        return len(self.history) == self.epochs or (
            len(self.history) > 0 and int(self.history[-1]["steps"]) >= self.total_steps
        )

    def run_epoch(self) -> None:
        """Train an epoch, or what is left of it, score it on the validation split and tell the callbacks."""
        train, validation = self.data.train, self.data.validation
        with self._errors_explained():
            read = self._train_epoch()
            outputs = predict_logits(
                self._wrapped, validation, self.context.fabric, on_batch=lambda _: self.notify("on_validation_batch")
            )
            scores = self._loss.score(outputs, validation)
            _require_finite(scores["validation_loss"], "the loss on the validation split")
        labels = train.labels[torch.from_numpy(read)]
        record = {
            "epoch": len(self.history) + 1,
            "steps": self.steps,
            **{f"train_{name}": total / self._weight(name, labels) for name, total in self._sums.items()},
            **scores,
            "learning_rate": self._learning_rate,
            "seconds": self._epoch_seconds,
            "tokens_per_second": int(train.tokens.lengths[read].sum()) / self._epoch_seconds,
            "texts_per_second": len(read) / self._epoch_seconds,
        }
        self._sums, self._epoch_seconds = defaultdict(float), 0.0
        self.history.append(record)
        self.notify("on_epoch", record)

    def end_after(self, steps: int) -> None:
        """End the training after so many steps in all, by which the learning rate comes down to its end."""
        self.total_steps, self._factor = steps, learning_rate_factor(self.context.config, steps)

    def state(self) -> State:
        """Return what the latest step left: weights, moments, sums of the epoch so far, random generators.

        Raises:
            FloatingPointError: A weight is not finite; no training can go on from there.
        """
        if not all(weight.detach().isfinite().all() for weight in self.trained.values()):
            raise FloatingPointError("a trained weight is no longer finite")
        return self.progress() | {
            "steps": self.steps,
            "learning_rate": self._learning_rate,
            "epoch_seconds": self._epoch_seconds,
            "sums": dict(self._sums),
            "weights": dict(self.trained),
            "moments": {name: dict(self._moments.get(weight, {})) for name, weight in self.trained.items()},
            "random": _random_state(self.context.fabric.device),
        }

    def progress(self) -> State:
        """Return what of the state stays true when the training is over."""
        return {"history": self.history, "best": self.best, "seconds": self.seconds}

    def restore_progress(self, state: State) -> None:
        """Go back to `progress`."""
        self.history, self.best = state["history"], state["best"]
        self._started = time.perf_counter() - state["seconds"]

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Go back to a `state`; the next epoch takes the rest of its steps."""
        self.restore_progress(state)
        for name, weight in self.trained.items():
            weight.copy_(state["weights"][name])
            for kind, value in state["moments"][name].items():
                like = torch.empty_like(weight if value.shape == weight.shape else value)  # in the weight's layout
                self._moments[weight][kind] = like.to(weight.device).copy_(value)
        self.steps, self._learning_rate = state["steps"], state["learning_rate"]
        self._sums, self._epoch_seconds = defaultdict(float, state["sums"]), state["epoch_seconds"]
        if parallel.rank():  # the state is process 0's
            return
        torch.set_rng_state(state["random"]["cpu"])
        if "device" in state["random"]:
            torch.get_device_module(self.context.fabric.device).set_rng_state(state["random"]["device"])

    def notify(self, hook: str, *arguments: Any) -> None:
        """Call a hook of all callbacks."""
        for callback in self.context.callbacks:
            getattr(callback, hook)(self, *arguments)

    def _train_epoch(self) -> Indices:
        """Take the rest of the epoch's steps, or of all steps; return which texts the epoch has read."""
        epoch = len(self.history)
        before = sum(map(len, self._epochs[:epoch]))
        taken = self.steps - before
        started = time.perf_counter() - self._epoch_seconds
        self._wrapped.train()
        for batches in self._epochs[epoch][taken:]:
            self._step(batches)
            self._epoch_seconds = time.perf_counter() - started
            self.notify("on_step")
            if self.steps >= self.total_steps:
                break
        self._batch = None
        return np.concatenate([batch for step in self._epochs[epoch][: self.steps - before] for batch in step])

    def _step(self, batches: Sequence[Indices]) -> None:
        """Take one optimiser step on the mean over all texts of `batches`."""
        config, fabric = self.context.config, self.context.fabric
        self._learning_rate = config.learning_rate * self._factor(self.steps)
        for group in self._groups:
            group["lr"] = self._learning_rate
        self._optimizer.zero_grad()
        texts, sums = sum(map(len, batches)), dict[str, float]()
        for self._batch in batches:
            own, counts = parallel.share(self._batch)
            for indices in self._microbatches(own):
                batch = self.data.train.batch(indices)
                moved = batch.to(fabric.device)
                losses = self._loss(self._wrapped(*moved.inputs), moved)
                values = torch.stack([value.detach() for value in losses.values()]).tolist()
                named = dict(zip(losses, values, strict=True))
                _require_finite(named["loss"], "the loss")  # before the step: the weights stay usable
                fabric.backward(losses["loss"] * (counts * len(indices) / texts))
                for name, value in named.items():
                    sums[name] = sums.get(name, 0.0) + counts * value * self._weight(name, batch.labels)
                self.loss_value = named["loss"]
        parallel.add_up(self.trained.values(), sums)
        for name, value in sums.items():
            self._sums[name] += value
        if config.max_grad_norm is not None:
            norm = clip_grad_norm_(list(self.trained.values()), config.max_grad_norm)
            _require_finite(norm.item(), "the gradient's norm")
        self._optimizer.step()
        self.steps += 1

    @staticmethod
    def _weight(name: str, labels: torch.Tensor) -> int:
        """Return over how many of these texts a loss is a mean."""
        return max(1, int(is_labelled(labels).sum())) if name == "ce" else len(labels)

    def _microbatches(self, indices: Indices) -> list[Indices]:
        """Cut a batch into as few parts as `max_microbatch_tokens` allows."""
        if self.context.max_microbatch_tokens is None:
            return [indices]
        offsets = self.data.train.tokens.offsets
        longest = int((offsets[indices + 1] - offsets[indices]).max())
        texts = max(1, self.context.max_microbatch_tokens // longest)
        return np.array_split(indices, math.ceil(len(indices) / texts))

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Raise a TrainingError that says where a training broke down, and what is left of it."""
        epoch, title = len(self.history) + 1, self.context.title
        used_up = memory_explained(
            lambda: f"in epoch {epoch}{self._position}, texts of up to {self.data.train.tokens.lengths.max()} tokens",
            "lower batch_size and raise gradient_accumulation_steps by as much, which takes the same steps; or ",
        )
        try:
            with used_up:
                yield
        except FloatingPointError as error:
            raise TrainingError(
                f"{title}: {error} in epoch {epoch} at learning rate {self._learning_rate:.2e}{self._position}\n"
                f"  what to do: lower the learning rate or set max_grad_norm; {self._left()}"
            ) from None
        except TrainingError as error:
            raise type(error)(f"{title}: {error}; {self._left()}") from error

    @property
    def _position(self) -> str:
        if self._batch is None:
            return ""
        numbers = ", ".join(map(str, self._batch[:_LISTED])) + (" …" if len(self._batch) > _LISTED else "")
        return (
            f", step {self.steps + 1} of {self.total_steps}, on a batch of {len(self._batch)} texts "
            f"(counted from 0: {numbers})"
        )

    def _left(self) -> str:
        left = ", and ".join(filter(None, (callback.left() for callback in self.context.callbacks)))
        return left or "nothing is saved yet"


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what is trained of a model, by dotted name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _random_state(device: torch.device) -> State:
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def _require_finite(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(f"{what} is {value}")
