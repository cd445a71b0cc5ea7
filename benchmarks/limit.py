"""How near tuning and labelling come to the machine's limit: its rate of float32 matrix products.

    python benchmarks/limit.py

The limit is measured, in turn with ours, with `torch.mm` at the model's own shapes: the products x Wᵀ of each kind of
linear map in the blocks, and for tuning also the gradients' products g W, as often as the model has each and with as
many rows as our batches have tokens. Nothing stands between these products, and a matrix stays in the cache while it
is repeated, so the model itself can't reach this rate.

Ours is counted in useful operations per real token: 2 a parameter of these matrices for labelling, whose adapters are
merged, and for tuning what `potstill.lora.counting.flops_per_token` counts (little more than 4: forward, and backward
through frozen matrices). Padding, attention's products, the optimiser and merging take time and count for nothing.

`fraction` is ours over the limit, for each round; `profile` names the operations with the largest shares of the time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch.profiler import profile

from common import (
    MAX_TOKENS,
    OURS,
    RUNTIME,
    SPEED_TRAINING,
    Run,
    arguments,
    draw,
    in_turn,
    labelled_sentences,
    sample_batches,
    spread,
    take_steps,
    write_result,
)
from potstill.config import DataConfig, TeacherConfig
from potstill.data import Examples, load_corpus
from potstill.data.tokenised import TrainingSet, sequential_batches
from potstill.lora import adapters
from potstill.lora.counting import flops_per_token
from potstill.lora.linear import linear_shape
from potstill.teacher import Teacher
from potstill.training.loop import evaluation_tokens, plan_epoch

Shapes = Counter[tuple[int, int]]
"""(in, out) of the linear maps in the blocks, and how many there are of each."""

REPEATS = 8
"""Products per shape and measurement; the mean stands for all of the model's maps of that shape."""
SHOWN = 12


def main() -> None:
    """Measure and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=12, help="tuning steps per run, drawn from CoLA's plan")
    parser.add_argument("--sentences", type=int, default=1500, help="sentences labelled per run")
    args = parser.parse_args()
    corpus = load_corpus(DataConfig())
    teacher = Teacher.create(TeacherConfig(), RUNTIME, corpus, MAX_TOKENS, args.seed)
    sentences = labelled_sentences(corpus)
    data = teacher.training_set(sentences)
    shapes = Counter(linear_shape(adapter.base) for _, adapter in adapters(teacher.classifier))
    matrices = sum(fan_in * fan_out * count for (fan_in, fan_out), count in shapes.items())
    _, operations = flops_per_token(teacher.classifier.model)

    def batches(number: int) -> list[np.ndarray]:
        generator = np.random.default_rng((args.seed, number))
        plan = plan_epoch(data.tokens.lengths, SPEED_TRAINING, generator)
        return sample_batches(plan, data.tokens.lengths, args.steps, generator)

    def sample(number: int) -> Examples:
        return draw(sentences, args.sentences, args.seed + number)

    def tune(number: int) -> Run:
        chosen = batches(number)
        seconds = take_steps(teacher, data, chosen, SPEED_TRAINING).seconds
        return _run("tuning", operations * sum(_rows(data, chosen)), seconds)

    def label(number: int) -> Run:
        chosen = teacher.training_set(sample(number))
        started = time.perf_counter()
        teacher.logits(sample(number))
        return _run("labelling", 2 * matrices * len(chosen.tokens.ids), time.perf_counter() - started)

    def tuning_limit(number: int) -> Run:
        return _products("tuning", shapes, _rows(data, batches(number)), backward=True)

    def labelling_limit(number: int) -> Run:
        chosen = teacher.training_set(sample(number))
        plan = list(sequential_batches(chosen.tokens.lengths, evaluation_tokens(teacher.fabric)))
        return _products("labelling", shapes, _rows(chosen, plan), backward=False)

    for warm_up in (tune, label, tuning_limit, labelling_limit):
        warm_up(args.rounds)  # draws what no round draws
    runs = in_turn({OURS: tune, "limit": tuning_limit}, args.rounds)
    runs += in_turn({OURS: label, "limit": labelling_limit}, args.rounds)
    shown = batches(0)[:2]
    write_result(
        args.out,
        runs,
        fraction={work: spread(_fractions(runs, work)) for work in ("tuning", "labelling")},
        profile={
            "tuning": _profile(lambda: take_steps(teacher, data, shown, SPEED_TRAINING)),
            "labelling": _profile(lambda: teacher.logits(sentences.take(np.concatenate(shown)))),
        },
    )


def _rows(data: TrainingSet, batches: list[np.ndarray]) -> list[int]:
    """Count the real tokens of each batch."""
    return [int(data.tokens.lengths[batch].sum()) for batch in batches]


def _products(work: str, shapes: Shapes, rows: list[int], *, backward: bool) -> Run:
    """Time the matrix products of a pass over batches with so many rows each."""
    seconds, operations = 0.0, 0
    for (fan_in, fan_out), count in shapes.items():
        weight = torch.randn(fan_out, fan_in)
        for tokens in rows:
            inputs, gradients = torch.randn(tokens, fan_in), torch.randn(tokens, fan_out)
            outputs, returned = torch.empty_like(gradients), torch.empty_like(inputs)
            started = time.perf_counter()
            for _ in range(REPEATS):
                torch.mm(inputs, weight.T, out=outputs)
                if backward:
                    torch.mm(gradients, weight, out=returned)
            seconds += (time.perf_counter() - started) / REPEATS * count
            operations += (4 if backward else 2) * tokens * weight.numel() * count
    return _run(work, operations, seconds)


def _run(work: str, operations: int, seconds: float) -> Run:
    return {"work": work, "operations": operations, "seconds": seconds, "gflops": operations / seconds / 1e9}


def _fractions(runs: list[Run], work: str) -> list[float]:
    """Return ours over the limit for each round."""
    gflops = {name: [r["gflops"] for r in runs if r["work"] == work and r["name"] == name] for name in (OURS, "limit")}
    return [ours / limit for ours, limit in zip(gflops[OURS], gflops["limit"], strict=True)]


def _profile(work: Callable[[], object]) -> dict[str, float]:
    """Return the largest shares of the time that operations take by themselves, without what they call."""
    with profile() as profiler:
        work()
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(times.values())
    return {name: times[name] / total for name in sorted(times, key=times.__getitem__, reverse=True)[:SHOWN]}


if __name__ == "__main__":
    main()
