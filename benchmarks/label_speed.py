"""Labelling with the teacher: `Teacher.logits` against a plain loop over padded batches with unmerged adapters.

    python benchmarks/label_speed.py
    python benchmarks/label_speed.py --stream 1000000    memory alone, over the number of lines

The plain loop takes 32 sentences at a time as they come, pads them, and runs the PEFT model without gradients. Both
label the same `--sentences` of CoLA, in turn, for the ratio. A sentence costs the plain loop the same however many
there are; that ours grows linearly as well, the runs over `--sizes` show.

With `--stream N` the command line labels generated files of N/10 and N lines with a small model of random weights, and
the peak of its resident memory is kept: `peak_mib` by number of lines, in `label_stream.json`.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from transformers import LlamaConfig

from common import (
    MAX_TOKENS,
    OURS,
    POTSTILL,
    RUNTIME,
    Run,
    arguments,
    draw,
    in_turn,
    labelled_sentences,
    peak_memory,
    plot_over_size,
    rate,
    ratios,
    write_result,
)
from peers import plain_logits, twin
from potstill.backbone import EMBEDDED
from potstill.config import DataConfig, TeacherConfig
from potstill.data import Corpus, Examples, load_corpus
from potstill.teacher import Teacher

SMALL = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
"""So small that reading, tokenising and writing decide, which is what streaming is about."""


def main() -> None:
    """Measure and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--sentences", type=int, default=640, help="sentences per run in turn")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 4000, 8500], help="sentences, ours alone")
    parser.add_argument(
        "--stream", type=int, metavar="N", help="measure the memory of labelling files of N/10, N lines"
    )
    args = parser.parse_args()
    corpus = load_corpus(DataConfig())
    if args.stream:
        is_default = args.out == parser.get_default("out")
        out = args.out.with_name("label_stream.json") if is_default else args.out
        runs = [_stream(corpus, lines, args.seed) for lines in (args.stream // 10, args.stream)]
        write_result(out, runs, ratios={"memory_at_ten_times_the_lines": runs[1]["peak_mib"] / runs[0]["peak_mib"]})
        return

    teacher = Teacher.create(TeacherConfig(), RUNTIME, corpus, MAX_TOKENS, args.seed)
    peer = twin(teacher)
    sentences = labelled_sentences(corpus)
    warm_up = draw(sentences, 32, args.seed)
    teacher.logits(warm_up)
    plain_logits(peer, teacher.training_set(warm_up))

    def ours(examples: Examples) -> Run:
        data = teacher.training_set(examples)  # tokenising is left out for both
        started = time.perf_counter()
        teacher.logits(examples)
        seconds = time.perf_counter() - started
        return {"sentences": len(data), **rate(data, np.arange(len(data)), seconds)}

    def plain(examples: Examples) -> Run:
        data = teacher.training_set(examples)
        started = time.perf_counter()
        plain_logits(peer, data)
        seconds = time.perf_counter() - started
        return {"sentences": len(data), **rate(data, np.arange(len(data)), seconds)}

    def sample(number: int) -> Examples:
        return draw(sentences, args.sentences, args.seed + number)

    runs = in_turn({"plain": lambda n: plain(sample(n)), OURS: lambda n: ours(sample(n))}, args.rounds)
    by_size = [{"name": OURS, **ours(draw(sentences, size, args.seed))} for size in args.sizes]
    plot_over_size(args.out.with_suffix(".png"), [*runs, *by_size])
    write_result(args.out, [*runs, *by_size], ratios=ratios(runs, "tokens_per_second"))


def _stream(corpus: Corpus, lines: int, seed: int) -> Run:
    """Label a generated file of so many lines with the command line; return time and peak memory."""
    with tempfile.TemporaryDirectory() as name:
        backbone, model, file = (Path(name) / part for part in ("backbone", "model", "lines.txt"))
        SMALL.save_pretrained(backbone)
        config = TeacherConfig(backbone=str(backbone), tokenizer=EMBEDDED, random_init=True)
        Teacher.create(config, RUNTIME, corpus, MAX_TOKENS, seed).save(model)
        words = sorted({word for text in corpus.train.texts for word in text.split()})
        generator = random.Random(seed)  # noqa: S311 — nothing secret
        with file.open("w", encoding="utf-8") as text:
            for _ in itertools.repeat(None, lines):
                text.write(" ".join(generator.choices(words, k=generator.randint(3, 20))) + "\n")
        started = time.perf_counter()
        peak = peak_memory([*POTSTILL, "predict", str(model), str(file), "--precision", RUNTIME.precision])
        seconds = time.perf_counter() - started
    return {"name": OURS, "lines": lines, "seconds": seconds, "lines_per_second": lines / seconds, "peak_mib": peak}


if __name__ == "__main__":
    main()
