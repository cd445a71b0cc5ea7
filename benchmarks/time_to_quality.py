"""Seconds of tuning until the teacher is good: Potstill against plain Trainer with `peft` at its best learning rate.

    python benchmarks/time_to_quality.py
    python benchmarks/time_to_quality.py --config FILE --every 10    other settings for ours

Good means an MCC of 0.40 on CoLA's selection split. Both are scored after every `--every` steps, with the clock
stopped. Ours takes the settings of `--config` and the precision that `auto` chooses on this machine. The peer takes
float32, all blocks of the backbone, the same rank, alpha, epochs and batch size, Trainer's default schedule (linear, no
warm-up) and each of several learning rates; the best of them is compared, in each round (a round is a seed) anew.

A run ends when it is good, when its epochs end, or after `--budget` seconds; `reached` says whether it was good. A peer
that was not counts with the time that it ran: it would have taken at least that. Where ours was not, the ratio is 0. A
learning rate need not be followed further than to the time that the best one before it took.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from common import AS_SHIPPED, OURS, RUNTIME, Run, arguments, in_turn, learner, plot, ratios, write_result
from peers import Stopwatch, trainer, twin
from potstill.config import PotstillConfig, RuntimeConfig, TeacherConfig
from potstill.data import Corpus, load_corpus
from potstill.distillation.loss import Objective
from potstill.evaluation.metrics import compute_metrics
from potstill.pipeline import class_weights
from potstill.teacher import Teacher
from potstill.training.compute import describe_compute
from potstill.training.inference import predict_logits
from potstill.training.loop import plan_epoch

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Course:
    """How good a run was when.

    Attributes:
        threshold: MCC that is good.
        budget: Seconds after which the run ends.
        points: [seconds, MCC] of each scoring.
    """

    threshold: float
    budget: float
    points: list[list[float]] = field(default_factory=list)

    def note(self, seconds: float, mcc: float) -> bool:
        """Note a scoring; say whether the run ends."""
        self.points.append([seconds, mcc])
        return self.reached or seconds >= self.budget

    @property
    def reached(self) -> bool:
        """Whether the model is good."""
        return self.points[-1][1] >= self.threshold

    def run(self, learning_rate: float) -> Run:
        """Summarise."""
        seconds = self.points[-1][0]
        return {"seconds": seconds, "reached": self.reached, "learning_rate": learning_rate, "course": self.points}


def main() -> None:
    """Measure and write result and plot."""
    parser = arguments(__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "cola-quick.yaml", help="settings of ours")
    parser.add_argument("--peer-learning-rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-4])
    parser.add_argument("--threshold", type=float, default=0.40, help="MCC to reach")
    parser.add_argument("--every", type=int, default=20, help="steps between two scorings")
    parser.add_argument("--budget", type=float, default=1800.0, help="seconds after which a run is given up")
    args = parser.parse_args()
    config = PotstillConfig.load(args.config)
    corpus = load_corpus(config.data)

    def create(settings: TeacherConfig, number: int, runtime: RuntimeConfig = RUNTIME) -> Teacher:
        return Teacher.create(settings, runtime, corpus, config.data.max_tokens, args.seed + number)

    def ours(number: int) -> Run:
        return _ours(create(config.teacher, number, AS_SHIPPED), config.teacher, corpus, args, args.seed + number)

    def plain(number: int) -> Run:
        tried: list[Run] = []
        for learning_rate in args.peer_learning_rates:
            budget = min((run["seconds"] for run in tried if run["reached"]), default=args.budget)
            peer_settings = _peer_settings(config.teacher, learning_rate)
            teacher = create(peer_settings, number)
            tried.append(_plain(teacher, peer_settings, corpus, args, args.seed + number, budget))
        best = min(tried, key=lambda run: (not run["reached"], run["seconds"]))
        return {**best, "tried": tried}

    runs = in_turn({"plain": plain, OURS: ours}, args.rounds)
    series: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        for tried in run.get("tried", [run]):
            name = f"{run['name']}, {tried['learning_rate']:g}, round {run['round']}"
            series[name] = [(seconds, mcc) for seconds, mcc in tried["course"]]
    plot(args.out.with_suffix(".png"), series, "seconds of tuning", "MCC on the selection split")
    never = {"seconds": math.inf}
    counted = [run | never if run["name"] == OURS and not run["reached"] else run for run in runs]
    precision = describe_compute(AS_SHIPPED)["precision"]
    write_result(
        args.out, runs, threshold=args.threshold, precision=precision, ratios=ratios(counted, "seconds", inverse=True)
    )


def _ours(teacher: Teacher, config: TeacherConfig, corpus: Corpus, args: argparse.Namespace, seed: int) -> Run:
    course = Course(args.threshold, args.budget)
    training, generator = config.training, np.random.default_rng(seed)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, POTSTILL_CACHE=cache):
        started = time.perf_counter()
        data = teacher.tuning_set(corpus.train)  # with what frozen blocks compute, if there are any
        plans = [plan_epoch(data.tokens.lengths, training, generator) for _ in range(training.epochs)]
        batches = [batch for plan in plans for batch in plan]
        ours = learner(teacher, training, len(batches), Objective(class_weights=class_weights(training, corpus)))
        seconds = time.perf_counter() - started
        selection = teacher.tuning_set(corpus.selection)
        for first in range(0, len(batches), args.every):
            started = time.perf_counter()
            ours.train(data, batches[first : first + args.every], lambda _: None)
            seconds += time.perf_counter() - started
            if course.note(seconds, ours.evaluate(selection)["mcc"]):
                break
    return course.run(training.learning_rate)


def _peer_settings(ours: TeacherConfig, learning_rate: float) -> TeacherConfig:
    """Keep rank, alpha, batch size and epochs; the rest is Trainer's default."""
    training = {"epochs": ours.training.epochs, "batch_size": ours.training.batch_size, "warmup": 0.0}
    values = {
        "backbone": ours.backbone,
        "lora": {"rank": ours.lora.rank, "alpha": ours.lora.alpha},
        "training": training | {"learning_rate": learning_rate},
    }
    return TeacherConfig.model_validate(values)


def _plain(
    teacher: Teacher, config: TeacherConfig, corpus: Corpus, args: argparse.Namespace, seed: int, budget: float
) -> Run:
    model, selection = twin(teacher), teacher.training_set(corpus.selection)
    course = Course(args.threshold, budget)

    def score() -> float:
        logits = predict_logits(_Unwrapped(model), selection, teacher.fabric)
        return compute_metrics(selection.labels.numpy(), logits.argmax(dim=1).numpy(), logits.shape[1]).mcc

    made = trainer(model, teacher.training_set(corpus.train), config.training, seed=seed)
    made.add_callback(_Scorer(course, score, args.every))
    made.train()
    return course.run(config.training.learning_rate)


class _Unwrapped(nn.Module):
    """Gives a `transformers` model the signature of ours, to be scored alike."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits, (batch, classes)."""
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class _Scorer(Stopwatch):
    """Scores after every so many steps, with the clock stopped, and ends the run."""

    def __init__(self, course: Course, score: Callable[[], float], every: int) -> None:
        super().__init__()
        self._course, self._score, self._every = course, score, every

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Score if it is time."""
        if state.global_step % self._every and state.global_step < state.max_steps:
            return
        self.pause()
        control.should_training_stop = self._course.note(self.seconds, self._score())
        self.on_train_begin()


if __name__ == "__main__":
    main()
