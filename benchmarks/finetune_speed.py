"""LoRA tuning: Potstill against `transformers` Trainer with `peft`, plain and with length-grouped batches.

    python benchmarks/finetune_speed.py           a sample of steps of each size's epoch
    python benchmarks/finetune_speed.py --full    whole epochs

All tune SmolLM2-135M with the same adapters (r = 8 on all linear maps) on the same CoLA sentences, 32 a step, float32,
AdamW, clipped gradients. Counted are real tokens, not padding.
Plain batches are drawn at random, grouped ones by the sampler of `train_sampling_strategy="group_by_length"`, ours by
Potstill's plan. Without `--full`, each run takes a sample of its epoch's batches in which every batch has the same
probability (`common.sample_batches`), which estimates the whole epoch's rate without bias.

`ours` is `potstill finetune --compile`, `eager` the same without the flag. `compile_seconds` is what the first two
steps took, in which all is compiled, over the same steps taken again: a cost paid once for a training, which the rates
leave out.

The peers run in a process of their own, which waits meanwhile: Potstill tells the allocator of its process to keep what
is freed (`potstill.training.memory`), and that would help them, too. Ours keep it from run to run, as in an epoch.

Before that, all take 20 steps from the same weights on the same batches: `max_loss_difference` is the largest
difference between their losses of the same step.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common import (
    MAX_TOKENS,
    OURS,
    RUNTIME,
    SPEED_TRAINING,
    Batches,
    Run,
    Steps,
    arguments,
    draw,
    in_turn,
    labelled_sentences,
    plot_over_size,
    rate,
    ratios,
    sample_batches,
    take_steps,
    write_result,
)
from peers import grouped_plan, peft_model, plain_plan, trainer_steps
from potstill.config import DataConfig, TeacherConfig, TrainingConfig
from potstill.data import load_corpus
from potstill.data.tokenised import TrainingSet
from potstill.teacher import Teacher
from potstill.training.compute import make_fabric
from potstill.training.loop import plan_epoch, trained_parameters
from potstill.training.memory import kept_memory

COMPARED_STEPS = 20

Plan = Callable[[NDArray[np.int64], TrainingConfig, np.random.Generator], Batches]
Tune = Callable[[TrainingSet, Batches], Steps]


def main() -> None:
    """Compare losses, measure, and write result and plot."""
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 4000, 8500], help="sentences")
    parser.add_argument("--steps", type=int, default=5, help="steps per run, drawn from the epoch's plan")
    parser.add_argument("--compare", type=int, default=COMPARED_STEPS, help="steps whose losses are compared")
    parser.add_argument("--full", action="store_true", help="run whole epochs")
    args = parser.parse_args()
    with kept_memory():
        _measure(args)


def _measure(args: argparse.Namespace) -> None:
    corpus = load_corpus(DataConfig())
    make_fabric(RUNTIME.model_copy(update={"compile": True}))  # says so where there is no compiler
    compiled, teacher = (Teacher.create(TeacherConfig(), RUNTIME, corpus, MAX_TOKENS, args.seed) for _ in range(2))
    sentences = labelled_sentences(corpus)

    def ours(data: TrainingSet, batches: Batches) -> Steps:
        return take_steps(compiled, data, batches, SPEED_TRAINING)

    def eager(data: TrainingSet, batches: Batches) -> Steps:
        return take_steps(teacher, data, batches, SPEED_TRAINING)

    with tempfile.TemporaryDirectory() as directory:
        teacher.save(Path(directory))
        apart = ProcessPoolExecutor(1, get_context("spawn"), _load_peer, (Path(directory), corpus.num_classes))
        apart.submit(bool).result()  # it has read the weights when it answers

    def theirs(data: TrainingSet, batches: Batches) -> Steps:
        # As bytes: the executor would send tensors from a thread of its own, and copying them there once is enough for
        # OpenMP to count more threads than cores, to put them to sleep between products, and to slow this process down.
        return apart.submit(_their_steps, pickle.dumps((data, batches))).result()

    data = teacher.training_set(sentences)
    plan = plan_epoch(data.tokens.lengths, SPEED_TRAINING, np.random.default_rng(args.seed))
    equal = [batch for batch in plan if len(batch) == SPEED_TRAINING.batch_size][: args.compare]
    compile_seconds = _compile(compiled, data, equal[:2])
    losses = np.array([tune(data, equal).losses for tune in (ours, eager, theirs)])
    difference = float(np.ptp(losses, axis=0).max())

    contestants: dict[str, tuple[Plan, Tune]] = {
        "plain": (plain_plan, theirs),
        "grouped": (grouped_plan, theirs),
        "eager": (plan_epoch, eager),
        OURS: (plan_epoch, ours),
    }
    runs: list[Run] = []
    for size in args.sizes:
        data = teacher.training_set(draw(sentences, size, args.seed))

        def measure(number: int, plan: Plan, tune: Tune, data: TrainingSet = data) -> Run:
            generator = np.random.default_rng((args.seed, number))
            lengths = data.tokens.lengths
            epoch = plan(lengths, SPEED_TRAINING, generator)
            batches = sample_batches(epoch, lengths, None if args.full else args.steps, generator)
            steps = tune(data, batches)
            return {"sentences": len(data), "steps": len(batches), **rate(data, np.concatenate(batches), steps.seconds)}

        measures = {
            name: lambda number, plan=plan, tune=tune, measure=measure: measure(number, plan, tune)
            for name, (plan, tune) in contestants.items()
        }
        runs += in_turn(measures, args.rounds)
    plot_over_size(args.out.with_suffix(".png"), runs)
    write_result(
        args.out,
        runs,
        max_loss_difference=difference,
        compared_steps=len(equal),
        compile_seconds=compile_seconds,
        ratios=ratios(runs, "tokens_per_second"),
        ratios_without_compile=ratios([run for run in runs if run["name"] != OURS], "tokens_per_second", ours="eager"),
    )


_peer: nn.Module
"""The peers' model, in their process."""


def _load_peer(directory: Path, num_labels: int) -> None:
    global _peer
    _peer = peft_model(directory, num_labels)


def _their_steps(work: bytes) -> Steps:
    data, batches = pickle.loads(work)  # noqa: S301 — it comes from the parent process
    return trainer_steps(_peer, data, batches, SPEED_TRAINING)


def _compile(teacher: Teacher, data: TrainingSet, batches: Batches) -> float:
    """Compile the blocks of `teacher`, leave its weights as they are, and return the seconds that it took."""
    trained = trained_parameters(teacher.classifier)
    start = {name: weight.detach().clone() for name, weight in trained.items()}
    teacher.classifier.compile_blocks()
    first, again = (take_steps(teacher, data, batches, SPEED_TRAINING).seconds for _ in range(2))
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(start[name])
    return first - again


if __name__ == "__main__":
    main()
