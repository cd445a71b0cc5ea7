"""Distilling for 5 epochs: Potstill's cached teacher logits against a loop that runs the teacher at every step.

    python benchmarks/distill_speed.py

Ours is `potstill.pipeline.distill` as it stands, beginning with an empty cache: the time to label every sentence, to
score the selection split, and to save and prove the ONNX graph is counted in. The peer is the usual script: random
batches of 32, padded; at every step the PEFT teacher's forward pass without gradients, then the same student's. Both
distil the same network from the same teacher on the same sentences, a sample of CoLA whose size `--sentences` gives.
The teacher's adapters are fresh: how well it judges does not change what it costs.

Ours computes in the precision that `auto` chooses on this machine, `precision` in the result; the peer in float32.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from common import AS_SHIPPED, OURS, Run, arguments, in_turn, ratios, write_result
from peers import PlainStudent, pad, train_plain_student, twin
from potstill import pipeline
from potstill.config import PotstillConfig, TrainingConfig
from potstill.data import load_corpus
from potstill.student.model import Student
from potstill.teacher import Teacher
from potstill.training.compute import describe_compute

SELECTION = 0.1  # as by default; given here because the flag counts the sentences that remain for training


def main() -> None:
    """Measure and write the result."""
    parser = arguments(__doc__)
    # Half of CoLA: what is paid once, the ONNX graph and its proof, does not decide, and a round takes minutes.
    parser.add_argument("--sentences", type=int, default=4000, help="sentences to train on")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    config = PotstillConfig.build(
        {
            "data": {"limit": round(args.sentences / (1 - SELECTION)), "selection_fraction": SELECTION},
            "student": {"training": _training(args.epochs).model_dump()},
            "runtime": AS_SHIPPED.model_dump(),
        }
    )
    corpus = load_corpus(config.data)
    teacher = Teacher.create(config.teacher, config.runtime, corpus, config.data.max_tokens, args.seed)
    peer = twin(teacher)

    def ours(number: int) -> Run:
        with tempfile.TemporaryDirectory() as directory, mock.patch.dict(os.environ, POTSTILL_CACHE=directory):
            started = time.perf_counter()
            pipeline.distill(config, corpus, teacher, Path(directory) / "student", args.seed + number)
            seconds = time.perf_counter() - started
        return {"sentences": len(corpus.train), "seconds": seconds}

    def every_step(number: int) -> Run:
        @torch.no_grad()
        def judge(indices: Tensor) -> Tensor:
            logits: Tensor = peer.eval()(**pad(texts, indices.numpy().astype(np.int64))).logits
            return logits

        started = time.perf_counter()
        student = Student.create(config.student, corpus, config.data.max_tokens, "", args.seed + number)
        texts = teacher.training_set(corpus.train)
        train_plain_student(
            PlainStudent(student.network),
            *map(student.training_set, (corpus.train, corpus.selection)),
            config.student.training,
            judge=judge,
            alpha=config.distillation.alpha,
            temperature=config.distillation.temperature,
        )
        return {"sentences": len(corpus.train), "seconds": time.perf_counter() - started}

    runs = in_turn({"every_step": every_step, OURS: ours}, args.rounds)
    precision = describe_compute(config.runtime)["precision"]
    write_result(args.out, runs, epochs=args.epochs, precision=precision, ratios=ratios(runs, "seconds", inverse=True))


def _training(epochs: int) -> TrainingConfig:
    """Take the student's default settings, but run all epochs."""
    return PotstillConfig().student.training.model_copy(update={"epochs": epochs, "patience": None})


if __name__ == "__main__":
    main()
