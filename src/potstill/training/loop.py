"""The one fit loop. LoRA tuning, distillation and the baseline differ in the loss they hand to it, nothing else."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from potstill.config import TrainingConfig
from potstill.console import print_line, progress_bar
from potstill.data.examples import UNLABELLED
from potstill.data.tokenised import Batch, TrainingSet, shuffled_batches
from potstill.errors import ArtifactError, TrainingError
from potstill.files import write_text
from potstill.interruption import Request, postponed
from potstill.training.checkpoint import (
    Checkpointer,
    Checkpointing,
    State,
    joined,
    random_state,
    restore_random_state,
    training_key,
)
from potstill.training.compute import describe_fabric
from potstill.training.inference import Indices, predict_logits
from potstill.training.memory import kept_memory, memory_explained
from potstill.training.progress import report_epoch, scores, warn_nothing_learnt
from potstill.training.schedule import learning_rate_factor, make_optimizer, skip_to

HISTORY_FILE: Final = "history.jsonl"
Record = dict[str, Any]
"""One line of it. `learning_rate` is the one of the epoch's last step; the speeds are those of training."""


class Loss(Protocol):
    """What a model is fitted to."""

    def __call__(self, outputs: Any, batch: Batch, /) -> dict[str, Tensor]:
        """Return `loss` and its parts, means over the batch, from what the model returns in training."""

    def score(self, outputs: Tensor, data: TrainingSet, /) -> Record:
        """Return `selection_loss` and the scores of a whole split, from what the model returns in evaluation."""


_NAMED: Final = 32
"""Texts that a message names: a batch of usual size."""


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
    most_tokens: int | None = None,
    on_epoch: Callable[[Record], object] | None = None,
    checkpointing: Checkpointing | None = None,
) -> FitResult:
    """Train `model` and leave it with the weights of its best epoch.

    Args:
        model: Called with a batch's `inputs`; what it returns goes to `loss`, in evaluation as one tensor of a row for
            each text. What requires no gradient stays as it is.
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
        most_tokens: A batch with more is computed in parts of at most that, or of one text, to spare memory. Their
            gradients add up to that of the whole where the loss is a mean over texts, all labelled; a mean over tokens
            weighs the parts by their texts, as accumulation does. None: all at once.
        on_epoch: Gets every epoch's record, after `save`; what it raises ends the fit there and goes to the caller.
            A fit that is resumed tells the epochs before the interruption first.
        checkpointing: Where to keep the state now and then. What an interrupted fit of the same model, data and
            settings left there is resumed, and ends as if nothing had happened, bit for bit on a CPU.

    Raises:
        TrainingError: The loss is no longer finite, or memory is used up.
        ArtifactError: The disk is full.
        Stopped: Ctrl-C or SIGTERM, where somebody handles them; with `checkpointing` after a step, when it is kept.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    plans = [plan_epoch(train.tokens.lengths, config, generator) for _ in range(config.epochs)]
    steps = sum(math.ceil(len(plan) / config.accumulation) for plan in plans)
    keeper = None
    if checkpointing is not None:
        settings = (str(seed), str(b_ratio), config.model_dump_json(), *describe_fabric(fabric).values())
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}  # packed weights are buffers
        keeper = Checkpointer(checkpointing, training_key(tensors, (train, selection), settings))
    learner = Learner(model, loss, config, steps, fabric, b_ratio=b_ratio, most_tokens=most_tokens)
    course = _Course(model, learner, config, title, keeper)
    course.resume(steps)
    write_text(history_file, _lines(course.history))
    if on_epoch is not None:
        for record in course.history:
            on_epoch(record)
    postponement: AbstractContextManager[Request] = postponed() if keeper is not None else nullcontext(lambda: None)
    with progress_bar() as progress, postponement as course.request:
        task = progress.add_task(title, total=steps, completed=course.learner.steps, loss="", scores="")
        while not course.ended:
            record = course.epoch(
                train,
                selection,
                plans[len(course.history)],
                lambda value: progress.update(task, advance=1, loss=f"loss {value:.3f}"),
            )
            write_text(history_file, _lines(course.history))
            improved = course.best.offer(record)
            progress.update(task, scores=scores(record, selection.majority_share))
            report_epoch(
                title, record, config.epochs, selection.majority_share, improved=improved and config.metric != "last"
            )
            if improved:
                save()
            if on_epoch is not None:
                on_epoch(record)
        best = course.end()
    if best.get("mcc", 1.0) <= 0.0:
        warn_nothing_learnt(title, selection.majority_share)
    return FitResult(tuple(course.history), best, course.seconds)


def parse_history(content: bytes, path: Path) -> tuple[Record, ...]:
    """Read a fit's records, which were found at `path`.

    Raises:
        ArtifactError: They are none.
    """
    try:
        return tuple(json.loads(line) for line in content.decode("utf-8").splitlines())
    except ValueError as error:
        raise ArtifactError(
            f"{path}: expected a record of each epoch, found none that can be read ({error})\n"
            f"  what to do: restore the file, or remove {path.parent} to have it trained again"
        ) from None


def _lines(history: Sequence[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in history)


class _Course:
    """How far a fit has come, and what is needed to go on from there.

    Attributes:
        learner: What takes the steps.
        best: The best epoch so far.
        history: The records of the epochs that are done.
        request: Says whether somebody asked for the end.
    """

    def __init__(
        self, model: nn.Module, learner: Learner, config: TrainingConfig, title: str, keeper: Checkpointer | None
    ) -> None:
        self._trained = trained_parameters(model)
        self.learner = learner
        self.best = _BestEpoch(self._trained, config.metric)
        self.history: list[Record] = []
        self.request: Request = lambda: None
        self._config, self._title, self._keeper = config, title, keeper
        self._is_complete = False
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time spent in all, before an interruption too."""
        return time.perf_counter() - self._started

    @property
    def ended(self) -> bool:
        """Whether there is no epoch left to train."""
        done, patience = len(self.history), self._config.patience
        tired = patience is not None and done > 0 and done - self.best.record["epoch"] >= patience
        return self._is_complete or tired or done == self._config.epochs

    def resume(self, steps: int) -> None:
        """Go back to where an interrupted fit was, of `steps` in all."""
        state = None if self._keeper is None else self._keeper.read()
        if state is None:
            return
        self.history = state.notes["course"]["history"]
        self._is_complete = state.notes["course"]["complete"]
        self._started -= state.notes["course"]["seconds"]
        self.best.restore_state(state.part("best"))
        if self._is_complete:
            print_line(f"{self._title}  was trained to its end before")
            return
        self.learner.restore(state.part("learner"))
        restore_random_state(state.part("random"), self.learner.device)
        print_line(f"{self._title}  goes on after step {self.learner.steps} of {steps}")

    def epoch(
        self, train: TrainingSet, selection: TrainingSet, batches: Sequence[Indices], on_step: Callable[[float], object]
    ) -> Record:
        """Train an epoch, or what is left of it, and return its record, which is the history's latest then."""
        number = len(self.history) + 1

        def after_step(value: float) -> None:
            on_step(value)
            if self._keeper is not None and self._keeper.is_due:
                self._keep()
            self._stop_if_asked()

        with self._explained(train, number):
            trained = self.learner.train(train, batches, after_step)
            scored = self.learner.evaluate(selection, lambda _: self._stop_if_asked())
        record = {"epoch": number, **trained, **scored, **self.learner.pace(train)}
        self.history.append(record)
        return record

    def end(self) -> Record:
        """Give the model its best epoch's weights, keep the result, and return that epoch's record."""
        self.best.restore()
        if self._keeper is not None and not self._is_complete:
            self._is_complete = True
            self._keeper.write(joined(course=self._state(), best=self.best.state()))
        return self.best.record

    def _stop_if_asked(self) -> None:
        """Keep the state and end, where somebody asked for it. The last step's state is the present one."""
        if (stopped := self.request()) is not None:
            self._keep()
            stopped.kept = f"{self._title} is kept as it was after step {self.learner.steps}"
            raise stopped

    def _keep(self) -> None:
        if self._keeper is not None:
            if not all(weight.detach().isfinite().all() for weight in self._trained.values()):
                raise FloatingPointError("a trained weight is no longer finite")  # no training can go on from there
            parts = {"learner": self.learner.state(), "random": random_state(self.learner.device)}
            self._keeper.write(joined(course=self._state(), best=self.best.state(), **parts))

    def _state(self) -> State:
        return State({"history": self.history, "complete": self._is_complete, "seconds": self.seconds}, {})

    @contextmanager
    def _explained(self, train: TrainingSet, epoch: int) -> Iterator[None]:
        """Say where a training broke down, and what is left of it.

        Raises:
            TrainingError: In place of what says that numbers are no longer finite, or memory is used up.
        """
        used_up = memory_explained(
            lambda: f"in epoch {epoch}{self.learner.whereabouts}, texts of up to {train.tokens.lengths.max()} tokens",
            "lower batch_size and raise accumulation by as much, which takes the same steps in less memory, unless a "
            "batch is computed in parts as it is (a teacher's, on a CPU); or lower max_tokens",
        )
        try:
            with used_up:
                yield
        except FloatingPointError as error:
            raise TrainingError(
                f"{self._title}: {error} in epoch {epoch} at learning rate {self.learner.learning_rate:.2e}"
                f"{self.learner.whereabouts}\n"
                f"  what to do: lower the learning rate or set clip_norm; {self._left()}"
            ) from None
        except TrainingError as error:
            raise type(error)(f"{self._title}: {error}; {self._left()}") from error

    def _left(self) -> str:
        kept = self.best.whereabouts
        if self._keeper is not None and self._keeper.path.is_file():
            kept += f", and the last good state, in {self._keeper.path}"
        return kept


def plan_epoch(lengths: Indices, config: TrainingConfig, generator: np.random.Generator) -> list[Indices]:
    """Plan an epoch's batches as `config` has it, for texts of these `lengths` in tokens; see `shuffled_batches`."""
    return shuffled_batches(lengths, config.batch_size, generator, by_tokens=config.batch_by == "tokens")


class Learner:
    """A model with its loss, optimiser and schedule: what takes steps.

    Its methods raise FloatingPointError where a loss is not finite; `fit` knows the epoch and tells the user.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        config: TrainingConfig,
        steps: int,
        fabric: Fabric,
        *,
        b_ratio: float,
        most_tokens: int | None = None,
    ) -> None:
        optimizer = make_optimizer(model, config, b_ratio=b_ratio)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(config, steps))
        self._moments = optimizer.state  # what the optimiser knows of each parameter
        self._model, self._optimizer = fabric.setup(model, optimizer)  # the same weights behind device and precision
        self._trained = trained_parameters(model)
        self._loss, self._config, self._fabric, self._most_tokens = loss, config, fabric, most_tokens
        self.learning_rate = config.learning_rate
        """Learning rate of the latest step."""
        self.steps = 0
        """Steps taken in all."""
        self._seen: list[dict[str, Tensor]] = []  # loss and parts of the epoch's batches so far
        self._seconds = 0.0  # spent on them
        self._is_between = False  # whether the next `train` goes on with the epoch of these
        self._at: tuple[int, int, Indices] | None = None  # where in the epoch it is

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._fabric.device

    @property
    def whereabouts(self) -> str:
        """Say which step was being taken, on which texts."""
        if self._at is None:
            return ""
        step, steps, texts = self._at
        numbers = ", ".join(map(str, texts[:_NAMED])) + (" …" if len(texts) > _NAMED else "")
        return f", step {step} of {steps}, on a batch of {len(texts)} texts (counted from 0: {numbers})"

    def train(self, data: TrainingSet, batches: Sequence[Indices], on_step: Callable[[float], object]) -> Record:
        """Go through `batches` once; return the mean over the texts of the loss and its parts."""
        if not self._is_between:
            self._seen, self._seconds = [], 0.0
        self._is_between = False
        started = time.perf_counter() - self._seconds
        self._model.train()
        steps = math.ceil(len(batches) / self._config.accumulation)
        with kept_memory():
            for first in range(len(self._seen), len(batches), self._config.accumulation):
                self._at = (first // self._config.accumulation + 1, steps, batches[first])
                self._seen += self._step(data, batches[first : first + self._config.accumulation])
                self._seconds = time.perf_counter() - started
                on_step(float(self._seen[-1]["loss"]))
        self._at = None
        labelled = [int((data.labels[batch] != UNLABELLED).sum()) for batch in batches]
        means = _weighted_means(self._seen, [len(batch) for batch in batches], labelled)
        return {f"train_{name}": mean for name, mean in means.items()}

    def evaluate(self, data: TrainingSet, on_batch: Callable[[int], object] = lambda _: None) -> Record:
        """Score a split; `on_batch` as for `predict_logits`."""
        record = self._loss.score(predict_logits(self._model, data, self._fabric, on_batch=on_batch), data)
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

    def state(self) -> State:
        """Return what the latest step left: weights, the optimiser's moments, and what the epoch has brought so far."""
        tensors: dict[str, Tensor] = {f"weight/{name}": weight for name, weight in self._trained.items()}
        for name, weight in self._trained.items():
            tensors |= {f"moment/{kind}/{name}": value for kind, value in self._moments.get(weight, {}).items()}
        parts = list(self._seen[0])
        tensors |= {f"seen/{part}": torch.stack([batch[part] for batch in self._seen]) for part in parts}
        notes = {"steps": self.steps, "learning_rate": self.learning_rate, "seconds": self._seconds, "parts": parts}
        return State(notes, tensors)

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Go back to a `state`; the next `train` takes the rest of its epoch's steps."""
        for name, weight in self._trained.items():
            weight.copy_(state.tensors[f"weight/{name}"])
        for key, value in state.tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "moment":
                moment, _, name = rest.partition("/")
                weight = self._trained[name]
                like = torch.empty_like(weight) if value.shape == weight.shape else torch.empty_like(value)
                self._moments[weight][moment] = like.to(weight.device).copy_(value)
        parts = state.notes["parts"]  # in the order in which the records name them
        batches = zip(*(state.tensors[f"seen/{part}"].to(self.device).clone() for part in parts), strict=True)
        self._seen = [dict(zip(parts, values, strict=True)) for values in batches]
        self._is_between = True
        self.steps = state.notes["steps"]
        self.learning_rate, self._seconds = state.notes["learning_rate"], state.notes["seconds"]
        skip_to(self._schedule, self.steps)

    def _step(self, data: TrainingSet, batches: Sequence[Indices]) -> list[dict[str, Tensor]]:
        """Take one optimiser step on the mean over all examples of `batches`; return each batch's loss and parts."""
        self.learning_rate = float(min(self._schedule.get_last_lr()))  # LoRA+ gives B more
        self._optimizer.zero_grad()
        # Batches of equal tokens differ in their number of sentences, which shall count the same all the same.
        by_tokens = self._config.batch_by == "tokens"
        examples = self._config.batch_size * len(batches) if by_tokens else sum(map(len, batches))
        seen: list[dict[str, Tensor]] = []
        for indices in batches:
            self._at = None if self._at is None else (*self._at[:2], indices)
            means: dict[str, Tensor] = {}
            for part in self._parts(data, indices):
                batch = data.batch(part).to(self._fabric.device)
                values = self._loss(self._model(*batch.inputs), batch)
                _require_finite(values["loss"].item(), "the loss")  # before the step: the weights stay usable
                self._fabric.backward(values["loss"] * (len(part) / examples))
                for name, value in values.items():
                    means[name] = means.get(name, 0.0) + value.detach() * (len(part) / len(indices))
            seen.append(means)
        if self._config.clip_norm is not None:
            norm = clip_grad_norm_(list(self._trained.values()), self._config.clip_norm)
            _require_finite(norm.item(), "the gradient's norm")
        self._optimizer.step()
        self._schedule.step()
        self.steps += 1
        return seen

    def _parts(self, data: TrainingSet, indices: Indices) -> list[Indices]:
        """Cut a batch into as few parts as the limit of tokens, padding included, allows: one text at least in each."""
        if self._most_tokens is None:
            return [indices]
        lengths = data.tokens.offsets[indices + 1] - data.tokens.offsets[indices]
        texts = max(1, self._most_tokens // int(lengths.max()))
        return np.array_split(indices, math.ceil(len(indices) / texts))


class _BestEpoch:
    """The best epoch so far, and a copy of what was trained until then."""

    def __init__(self, trained: dict[str, nn.Parameter], metric: str) -> None:
        self._trained = trained
        self._metric = metric
        self._weights: dict[str, Tensor] = {}
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
        self._weights = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        return True

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model the kept weights; the frozen rest never changed."""
        for name, weight in self._weights.items():
            self._trained[name].copy_(weight)

    def state(self) -> State:
        """Return record and weights."""
        return State({"record": self.record}, dict(self._weights))

    def restore_state(self, state: State) -> None:
        """Go back to a `state`."""
        self.record = state.notes["record"]
        self._weights = {
            name: torch.empty_like(self._trained[name]).copy_(weight) for name, weight in state.tensors.items()
        }

    def _score(self, record: Record) -> tuple[float, float]:
        """Return what to maximise; between equal scores (an MCC of 0, say) the lower loss wins."""
        lower_loss = -record["selection_loss"]
        scores = record | {"loss": lower_loss, "last": record["epoch"]}
        return (scores[self._metric], lower_loss)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what is trained of a model, by dotted name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


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
