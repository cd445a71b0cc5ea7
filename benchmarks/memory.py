"""Peak memory of tuning: Potstill against Trainer with `peft` and length-grouped batches.

    python benchmarks/memory.py

Each run is a process of its own that tunes SmolLM2-135M (r = 8 on all linear maps, float32) for the same number of
steps: the batch with the most tokens of its epoch's plan, then a sample of the others. Kept is the peak of its resident
memory, libraries included; the ratio is ours over the peer's, so that 1 or less is the better.
"""

from __future__ import annotations

import sys

import numpy as np

import peers
from common import (
    MAX_TOKENS,
    OURS,
    RUNTIME,
    SPEED_TRAINING,
    arguments,
    in_turn,
    labelled_sentences,
    peak_memory,
    ratios,
    sample_batches,
    take_steps,
    write_result,
)
from potstill.config import DataConfig, TeacherConfig
from potstill.data import load_corpus
from potstill.teacher import Teacher
from potstill.training.loop import plan_epoch

GROUPED = "grouped"


def main() -> None:
    """Measure in processes, or be one of them."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=8, help="steps per run")
    parser.add_argument("--only", choices=(OURS, GROUPED), help="tune in this process and measure nothing")
    args = parser.parse_args()
    if args.only:
        _tune(args.only, args.steps, args.seed)
        return

    def peak(name: str, number: int) -> dict[str, float]:
        flags = ["--only", name, "--steps", str(args.steps), "--seed", str(args.seed + number)]
        return {"steps": args.steps, "peak_mib": peak_memory([sys.executable, __file__, *flags])}

    runs = in_turn({name: lambda n, name=name: peak(name, n) for name in (GROUPED, OURS)}, args.rounds)
    write_result(args.out, runs, ratios=ratios(runs, "peak_mib"))


def _tune(name: str, steps: int, seed: int) -> None:
    """Take the steps."""
    generator = np.random.default_rng(seed)
    corpus = load_corpus(DataConfig())
    data = peers.training_set(labelled_sentences(corpus))
    lengths = data.tokens.lengths
    plan = (plan_epoch if name == OURS else peers.grouped_plan)(lengths, SPEED_TRAINING, generator)
    largest = max(plan, key=lambda batch: int(lengths[batch].max()) * len(batch))
    batches = [largest, *sample_batches(plan, lengths, steps - 1, generator)]
    if name == OURS:
        teacher = Teacher.create(TeacherConfig(), RUNTIME, corpus, MAX_TOKENS, seed)
        take_steps(teacher, data, batches, SPEED_TRAINING)
    else:
        peers.trainer_steps(peers.peft_model(), data, batches, SPEED_TRAINING)


if __name__ == "__main__":
    main()
