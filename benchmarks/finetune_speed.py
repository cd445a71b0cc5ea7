"""LoRA tuning: Potstill against `transformers` Trainer with `peft`, plain and with length-grouped batches.

    python benchmarks/finetune_speed.py

All tune SmolLM2-135M with the same adapters (r = 8 on all linear maps) on the same CoLA sentences, 32 a step, float32,
AdamW, clipped gradients. Only real tokens count, not padding. `plain` draws batches at random, `grouped` takes the
sampler of `train_sampling_strategy="group_by_length"`, `ours` Potstill's plan. Each run takes a random sample of its
epoch's batches.

The peers run in a process of their own, which waits meanwhile: what either library sets in its process does not reach
the other.

First, all take 20 steps from the same weights on the same batches: `max_loss_difference` is the largest difference
between their losses of the same step.
"""

from __future__ import annotations

import pickle
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from common import OURS, Run, alternate, arguments, ratios, write_result
from peers import grouped_plan, peft_model, plain_plan, trainer_steps
from potstill.config import DataConfig, TrainingConfig, TransformerConfig
from potstill.data import load_corpus
from potstill.data.tokenised import TrainingSet, shuffled_batches
from potstill.teacher.transformer import TransformerTeacher
from steps import MAX_TOKENS, RUNTIME, SPEED_TRAINING, Batches, Steps, draw, rate, sample_batches, take_steps


def main() -> None:
    """Compare losses, measure, and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 4000, 8500], help="sentences")
    parser.add_argument("--steps", type=int, default=5, help="steps per run, drawn from the epoch's plan")
    parser.add_argument("--compare", type=int, default=20, help="steps whose losses are compared")
    args = parser.parse_args()
    corpus = load_corpus(DataConfig())
    sentences = corpus.train.joined(corpus.validation)
    teacher = TransformerTeacher.create(TransformerConfig(), RUNTIME, corpus, MAX_TOKENS, args.seed)
    with tempfile.TemporaryDirectory() as directory:
        teacher.save(Path(directory))
        peer = ProcessPoolExecutor(1, get_context("spawn"), _load_peer, (Path(directory), corpus.num_classes))
        peer.submit(bool).result()  # it has read the weights when it answers

    def ours(data: TrainingSet, batches: Batches) -> Steps:
        return take_steps(teacher, data, batches, SPEED_TRAINING)

    def theirs(data: TrainingSet, batches: Batches) -> Steps:
        # As bytes: the executor would send tensors from a thread of its own, and copying them there once is enough for
        # OpenMP to count more threads than cores, to put them to sleep between products, and to slow this process down.
        return peer.submit(_their_steps, pickle.dumps((data, batches))).result()

    systems = {"plain": (plain_plan, theirs), "grouped": (grouped_plan, theirs), OURS: (our_plan, ours)}

    def measure(name: str, number: int, data: TrainingSet) -> Run:
        plan, tune = systems[name]
        generator, lengths = np.random.default_rng((args.seed, number)), data.tokens.lengths
        epoch = plan(lengths, SPEED_TRAINING, generator)
        batches = sample_batches(epoch, args.steps, generator)
        seconds = tune(data, batches).seconds
        return {"sentences": len(data), "steps": len(batches), **rate(data, np.concatenate(batches), seconds)}

    data = teacher.featurise(sentences)
    plan = our_plan(data.tokens.lengths, SPEED_TRAINING, np.random.default_rng(args.seed))
    equal = [batch for batch in plan if len(batch) == SPEED_TRAINING.batch_size][: args.compare]
    losses = np.array([tune(data, equal).losses for tune in (ours, theirs)])
    runs: list[Run] = []
    for size in args.sizes:
        data = teacher.featurise(draw(sentences, size, args.seed))
        measures = {name: lambda n, name=name, data=data: measure(name, n, data) for name in systems}
        runs += alternate(measures, args.rounds)
    write_result(
        args.out,
        runs,
        max_loss_difference=float(np.ptp(losses, axis=0).max()),
        compared_steps=len(equal),
        ratios=ratios(runs, "tokens_per_second", by=("round", "sentences")),
    )


def our_plan(lengths: NDArray[np.int64], training: TrainingConfig, generator: np.random.Generator) -> Batches:
    """Plan an epoch as Potstill does."""
    return shuffled_batches(lengths, training.batch_size, generator)


_peer: nn.Module
"""The peers' model, in their process."""


def _load_peer(directory: Path, num_labels: int) -> None:
    global _peer
    _peer = peft_model(directory, num_labels)


def _their_steps(work: bytes) -> Steps:
    data, batches = pickle.loads(work)  # noqa: S301 — it comes from the parent process
    return trainer_steps(_peer, data, batches, SPEED_TRAINING)


if __name__ == "__main__":
    main()
