"""Labelling with the teacher: `Teacher.logits` against a plain loop over padded batches with unmerged adapters.

    python benchmarks/label_speed.py

The plain loop takes 32 sentences at a time as they come, pads them, and runs the PEFT model without gradients. Both
label the same `--sentences` of CoLA.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from common import OURS, Run, alternate, arguments, ratios, write_result
from peers import plain_logits, twin
from potstill.config import DataConfig, TransformerConfig
from potstill.data import Examples, load_corpus
from potstill.data.tokenised import TrainingSet
from potstill.teacher.transformer import TransformerTeacher
from steps import MAX_TOKENS, RUNTIME, draw, rate


def main() -> None:
    """Measure and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--sentences", type=int, default=640, help="sentences that both label")
    args = parser.parse_args()
    corpus = load_corpus(DataConfig())
    teacher = TransformerTeacher.create(TransformerConfig(), RUNTIME, corpus, MAX_TOKENS, args.seed)
    peer, sentences = twin(teacher), corpus.train.joined(corpus.validation)

    def timed(number: int, label: Callable[[Examples, TrainingSet], object], count: int = args.sentences) -> Run:
        examples = draw(sentences, count, args.seed + number)
        data = teacher.featurise(examples)  # tokenising is left out for both
        started = time.perf_counter()
        label(examples, data)
        return {"sentences": len(data), **rate(data, np.arange(len(data)), time.perf_counter() - started)}

    labels = {"plain": lambda _, data: plain_logits(peer, data), OURS: lambda examples, _: teacher.logits(examples)}
    for label in labels.values():
        timed(0, label, 32)  # the first pass chooses kernels
    runs = alternate({name: lambda n, label=label: timed(n, label) for name, label in labels.items()}, args.rounds)
    write_result(args.out, runs, ratios=ratios(runs, "tokens_per_second"))


if __name__ == "__main__":
    main()
