"""Peak memory of tuning: Potstill against Trainer with `peft` and length-grouped batches.

    python benchmarks/memory.py

Each run is a process of its own that tunes SmolLM2-135M (r = 8 on all linear maps, float32) for the same number of
steps: the batch with the most tokens of its epoch's plan, then a sample of the others. What counts is the peak of its
resident memory, libraries included; the ratio is ours over the peer's, so that less than 1 is better.
"""

from __future__ import annotations

import json
import sys

import numpy as np

import peers
from baselines import peak_bytes
from common import OURS, alternate, arguments, ratios, run_script, write_result
from finetune_speed import our_plan
from potstill.config import DataConfig, TransformerConfig
from potstill.data import load_corpus
from potstill.teacher.transformer import TransformerTeacher
from steps import MAX_TOKENS, RUNTIME, SPEED_TRAINING, sample_batches, take_steps

GROUPED = "grouped"


def main() -> None:
    """Measure in processes, or be one of them."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=8, help="steps per run")
    parser.add_argument("--only", choices=(OURS, GROUPED), help="tune in this process and measure nothing")
    args = parser.parse_args()
    if args.only:
        tune(args.only, args.steps, args.seed)
        sys.stdout.write(json.dumps({"peak_mib": peak_bytes() / 2**20}))
        return

    def peak(name: str, number: int) -> dict[str, float]:
        flags = ["--only", name, "--steps", str(args.steps), "--seed", str(args.seed + number)]
        return {"steps": args.steps, **run_script(*flags)}

    runs = alternate({name: lambda n, name=name: peak(name, n) for name in (GROUPED, OURS)}, args.rounds)
    write_result(args.out, runs, ratios=ratios(runs, "peak_mib"))


def tune(name: str, steps: int, seed: int) -> None:
    """Take the steps."""
    generator = np.random.default_rng(seed)
    corpus = load_corpus(DataConfig())
    data = peers.training_set(corpus.train.joined(corpus.validation))
    lengths = data.tokens.lengths
    plan = (our_plan if name == OURS else peers.grouped_plan)(lengths, SPEED_TRAINING, generator)
    largest = max(plan, key=lambda batch: int(lengths[batch].max()) * len(batch))
    batches = [largest, *sample_batches(plan, steps - 1, generator)]
    if name == OURS:
        teacher = TransformerTeacher.create(TransformerConfig(), RUNTIME, corpus, MAX_TOKENS, seed)
        take_steps(teacher, data, batches, SPEED_TRAINING)
    else:
        peers.trainer_steps(peers.peft_model(), data, batches, SPEED_TRAINING)


if __name__ == "__main__":
    main()
