"""LoRA and its variants on CoLA with an equal budget: the same sentences, once, on the embedded backbone.

    python benchmarks/lora.py

Every row is one setting, trained with several seeds; a seed also decides which sentences are drawn. Scores are those on
the selection split, which no gradient sees: the settings in configs/cola.yaml follow from this table, so it must not
look at the development split. Each training runs in a process of its own with one thread, so that `peak_mb` and
`seconds` (of processor time) are its own, and as many run at a time as there are cores. `--resume` names a file that
keeps what is finished. The result is `benchmarks/results/lora.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import arguments, finished, over_seeds, train_apart, write_result
from potstill.artifacts import digest
from potstill.config import DataConfig, PotstillConfig, TeacherConfig
from potstill.data import load_corpus
from potstill.files import cache_directory
from potstill.pipeline import finetune
from potstill.teacher import check_sources

ROWS: dict[str, dict[str, Any]] = {
    # A linear map alone bears, and needs, a higher rate than adapters do.
    "head only": {"method": "head", "training": {"learning_rate": 5e-3}},
    **{f"LoRA r={rank}": {"lora": {"rank": rank}} for rank in (1, 4, 8, 16)},
    "rsLoRA r=16": {"lora": {"rank": 16, "rank_stabilised": True}},
    "DoRA r=8": {"lora": {"dora": True}},
    # The paper's ratio; A and B keep the other rows' rate as their geometric mean.
    "LoRA+ r=8": {"lora": {"learning_rate_ratio": 16.0}, "training": {"learning_rate": 5e-4 / 4}},
    "PiSSA r=8": {"lora": {"init": "pissa"}},
    "LoRA r=8, last 10 blocks": {"lora": {"last_blocks": 10}},
}
"""Settings of the teacher that differ from the defaults: rank 8, alpha 16 throughout (as in LoRA's paper, section 4.1,
it is not tuned with the rank), learning rate 5e-4."""

SELECTION = 800
"""Sentences that the scores are computed on."""


def main() -> None:
    """Train what is missing, then write the table."""
    parser = arguments(__doc__, rounds=False, seed=False)
    parser.add_argument("--seeds", type=int, default=3, help="seeds per row, from 0")
    parser.add_argument("--sentences", type=int, default=1800, help="sentences to train on")
    parser.add_argument("--resume", type=Path, default=Path("runs") / "lora-benchmark.jsonl", help="finished trainings")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument("--train", nargs=2, metavar=("ROW", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        sys.stdout.write(json.dumps(train(args.train[0], int(args.train[1]), args.sentences)))
        return
    check_sources(TeacherConfig())  # converts the embedded backbone where that has not been done yet
    runs = finished(
        args.resume,
        [(name, seed) for seed in range(args.seeds) for name in ROWS],
        lambda name: digest([json.dumps(ROWS.get(name)), str(args.sentences)]),
        lambda name, seed: _train_apart(name, seed, args.sentences),
        args.jobs,
    )
    rows = [_row(name, [run for run in runs if run["name"] == name]) for name in ROWS]
    write_result(args.out, runs, rows=rows, sentences=args.sentences, selection=SELECTION, epochs=1)


def train(name: str, seed: int, sentences: int) -> dict[str, Any]:
    """Train one row with one seed and return what came of it."""
    pool = sentences + SELECTION
    data = DataConfig(source="cola", limit=pool, selection_fraction=SELECTION / pool, split_seed=seed)
    settings = ROWS[name]
    # With so few sentences small batches, and thus more steps, learn the most.
    training = {"epochs": 1, "batch_size": 8, **settings.get("training", {})}
    teacher = {**settings, "training": training}
    config = PotstillConfig.build(
        {"data": data.model_dump(), "teacher": teacher, "runtime": {"device": "cpu", "precision": "32-true"}}
    )
    corpus = load_corpus(config.data)
    started = time.process_time()  # one thread: what else runs on the machine does not count
    with tempfile.TemporaryDirectory() as directory:
        _, trained = finetune(config, corpus, Path(directory), seed)
    return {
        "name": name,
        "seed": seed,
        "mcc": trained.fit.best["mcc"],
        "accuracy": trained.fit.best["accuracy"],
        "loss": trained.fit.best["selection_loss"],
        "trainable_parameters": trained.record.trainable_parameters,
        "seconds": time.process_time() - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "teacher": teacher,
    }


def _train_apart(name: str, seed: int, sentences: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        # The states of frozen blocks are part of a row's time: none may be left over from an earlier run.
        (Path(directory) / "backbones").symlink_to(cache_directory() / "backbones")
        flags = ["--train", name, str(seed), "--sentences", str(sentences)]
        return train_apart(flags, POTSTILL_CACHE=directory)


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    runs = sorted(runs, key=lambda run: run["seed"])
    return {
        "name": name,
        "mcc": over_seeds([run["mcc"] for run in runs]),
        "loss": over_seeds([run["loss"] for run in runs]),
        "trainable_parameters": runs[0]["trainable_parameters"],
        "seconds": float(np.mean([run["seconds"] for run in runs])),
        "peak_mb": float(np.max([run["peak_mb"] for run in runs])),
    }


if __name__ == "__main__":
    main()
