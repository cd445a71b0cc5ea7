"""How near tuning and labelling come to the machine's limit: its rate of float32 matrix products.

    python benchmarks/limit.py

The limit is measured, in turn with ours, with `torch.mm` at the model's own shapes: the products x Wᵀ of each kind of
linear map in the blocks, and for tuning also the gradients' products g W, as often as the model has each and with as
many rows as our batches have tokens. Nothing stands between these products, and a matrix stays in the cache while it
is repeated, so that a model that multiplies by it can't reach this rate.

Ours is counted in useful operations per token that is computed: 2 a parameter of these matrices for labelling, whose
adapters are merged, and for tuning what `potstill.lora.counting.flops_per_token` counts (little more than 4: forward,
and backward through frozen matrices), less what the top block leaves undone (`potstill.backbone.top`). Padding,
attention's products, the optimiser and merging take time and count for nothing; nor does what a text to be labelled
shares with another of its batch, which is computed once (`potstill.data.trees`).

`fraction` is ours over the limit, for each round: `tuning`, `tuning, compiled` (`potstill finetune --compile`, without
the minute that compiling takes) and `labelling`; `fraction_with_shared` counts every token of every text,
computed or not; `faster_product` is the rate of oneDNN's product, which Potstill takes where the processor has AVX-512
(`potstill.lora.linear`), over that of `torch.mm`; `profile` names the operations with the largest shares of the time.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
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
from potstill.data.tokenised import Batch, TrainingSet
from potstill.lora import adapters
from potstill.lora.counting import flops_per_token
from potstill.lora.linear import linear_shape, product
from potstill.teacher import Teacher
from potstill.training.compute import make_fabric
from potstill.training.inference import tokens_at_once
from potstill.training.loop import plan_epoch
from potstill.training.memory import kept_memory

Shapes = Counter[tuple[int, int]]
"""(in, out) of the linear maps in the blocks, and how many there are of each."""

REPEATS = 8
"""Products per shape and measurement; the mean stands for all of the model's maps of that shape."""
SHOWN = 12
LIMIT, FASTER, COMPILED = "limit", "onednn", "compiled"

Product = Callable[..., Tensor]
"""Takes x and Wᵀ, and a place for the result."""


def main() -> None:
    """Measure and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=12, help="tuning steps per run, drawn from CoLA's plan")
    parser.add_argument("--sentences", type=int, default=1500, help="sentences labelled per run")
    args = parser.parse_args()
    corpus = load_corpus(DataConfig())
    make_fabric(RUNTIME.model_copy(update={"compile": True}))  # says so where there is no compiler
    compiled, teacher = (Teacher.create(TeacherConfig(), RUNTIME, corpus, MAX_TOKENS, args.seed) for _ in range(2))
    compiled.classifier.compile_blocks()
    sentences = labelled_sentences(corpus)
    data = teacher.training_set(sentences)
    shapes = Counter(linear_shape(adapter.base) for _, adapter in adapters(teacher.classifier))
    matrices = sum(fan_in * fan_out * count for (fan_in, fan_out), count in shapes.items())
    _, operations = flops_per_token(teacher.classifier.model)
    left_out = _top_operations(teacher)

    def batches(number: int) -> list[np.ndarray]:
        generator = np.random.default_rng((args.seed, number))
        plan = plan_epoch(data.tokens.lengths, SPEED_TRAINING, generator)
        return sample_batches(plan, data.tokens.lengths, args.steps, generator)

    def sample(number: int) -> Examples:
        return draw(sentences, args.sentences, args.seed + number)

    def tune(number: int, tuned: Teacher = teacher) -> Run:
        chosen = batches(number)
        seconds = take_steps(tuned, data, chosen, SPEED_TRAINING).seconds
        tokens, texts = sum(_rows(data, chosen)), sum(map(len, chosen))
        return _run("tuning", operations * tokens - left_out["tuning"] * (tokens - texts), seconds)

    def label(number: int) -> Run:
        chosen, plan = labelled(number)
        started = time.perf_counter()
        teacher.logits(sample(number))
        seconds = time.perf_counter() - started
        spared = left_out["labelling"] * (sum(_rows(chosen, plan)) - len(chosen))
        run = _run("labelling", 2 * matrices * sum(_rows(chosen, plan)) - spared, seconds)
        return run | {"shared": 2 * matrices * len(chosen.tokens.ids)}

    def labelled(number: int) -> tuple[TrainingSet, list[np.ndarray]]:
        chosen = replace(teacher.training_set(sample(number)), as_trees=teacher.classifier.takes_trees)
        return chosen, list(chosen.sequential_batches(tokens_at_once(teacher.fabric)))

    def tuning_limit(multiply: Product) -> Callable[[int], Run]:
        return lambda number: _products("tuning", shapes, _rows(data, batches(number)), multiply, backward=True)

    def labelling_limit(multiply: Product) -> Callable[[int], Run]:
        return lambda number: _products("labelling", shapes, _rows(*labelled(number)), multiply, backward=False)

    runs: list[Run] = []
    with kept_memory():  # as in a whole epoch, whose first step finds no memory yet, but no other
        tuning = {OURS: tune, COMPILED: lambda number: tune(number, compiled)}
        for ours, limit in ((tuning, tuning_limit), ({OURS: label}, labelling_limit)):
            contestants = {**ours, LIMIT: limit(torch.mm), FASTER: limit(_onednn)}
            for warm_up in contestants.values():
                warm_up(args.rounds)  # draws what no round draws
            runs += in_turn(contestants, args.rounds)
    shown = batches(0)[:2]
    write_result(
        args.out,
        runs,
        fraction={
            "tuning": spread(_fractions(runs, "tuning")),
            "tuning, compiled": spread(_fractions(runs, "tuning", name=COMPILED)),
            "labelling": spread(_fractions(runs, "labelling")),
        },
        fraction_with_shared={"labelling": spread(_fractions(runs, "labelling", "shared"))},
        faster_product={work: spread(_fractions(runs, work, name=FASTER)) for work in ("tuning", "labelling")},
        profile={
            "tuning": _profile(lambda: take_steps(teacher, data, shown, SPEED_TRAINING)),
            "labelling": _profile(lambda: teacher.logits(sentences.take(np.concatenate(shown)))),
        },
    )


def _top_operations(teacher: Teacher) -> dict[str, int]:
    """Return the operations, by work, that a token costs the less for not being classified."""
    parts = [] if teacher.classifier.top is None else teacher.classifier.top.parts
    spared = [adapter for part in parts for _, adapter in adapters(part)]
    matrices = sum(math.prod(linear_shape(adapter.base)) for adapter in spared)
    low_rank = sum(adapter.lora_A.numel() + adapter.lora_B.numel() for adapter in spared)
    return {"tuning": 4 * matrices + 6 * low_rank, "labelling": 2 * matrices}


def _rows(data: TrainingSet, batches: list[np.ndarray]) -> list[int]:
    """Count the tokens of each batch that are computed: those that some text's last one attends to."""
    return [_real(data.batch(batch)) for batch in batches]


def _real(batch: Batch) -> int:
    if batch.ends is None:
        return int(batch.attention_mask.sum())
    rows, ends = batch.ends
    real = torch.zeros_like(batch.input_ids).index_add_(0, rows, batch.attention_mask[rows, 0, ends].long())
    return int((real > 0).sum())


def _onednn(x: Tensor, transposed: Tensor, *, out: Tensor) -> Tensor:
    """Multiply as `torch.mm` does, but for `out`, which the kernel has no use for."""
    return product(x, transposed.T)


def _products(work: str, shapes: Shapes, rows: list[int], multiply: Product, *, backward: bool) -> Run:
    """Time the matrix products of a pass over batches with so many rows each."""
    seconds, operations = 0.0, 0
    for (fan_in, fan_out), count in shapes.items():
        weight = torch.randn(fan_out, fan_in)
        for tokens in rows:
            inputs, gradients = torch.randn(tokens, fan_in), torch.randn(tokens, fan_out)
            outputs, returned = torch.empty_like(gradients), torch.empty_like(inputs)
            started = time.perf_counter()
            for _ in range(REPEATS):
                multiply(inputs, weight.T, out=outputs)
                if backward:
                    multiply(gradients, weight, out=returned)
            seconds += (time.perf_counter() - started) / REPEATS * count
            operations += (4 if backward else 2) * tokens * weight.numel() * count
    return _run(work, operations, seconds)


def _run(work: str, operations: int, seconds: float) -> Run:
    return {"work": work, "operations": operations, "seconds": seconds, "gflops": operations / seconds / 1e9}


def _fractions(runs: list[Run], work: str, counted: str = "operations", name: str = OURS) -> list[float]:
    """Return the rate of `name`, in operations that are `counted`, over the limit for each round."""
    rates = {
        who: [run[what] / run["seconds"] for run in runs if run["work"] == work and run["name"] == who]
        for who, what in ((name, counted), (LIMIT, "operations"))
    }
    return [rate / limit for rate, limit in zip(rates[name], rates[LIMIT], strict=True)]


def _profile(work: Callable[[], object]) -> dict[str, float]:
    """Return the largest shares of the time that operations take by themselves, without what they call."""
    with profile() as profiler:
        work()
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(times.values())
    return {name: times[name] / total for name in sorted(times, key=times.__getitem__, reverse=True)[:SHOWN]}


if __name__ == "__main__":
    main()
