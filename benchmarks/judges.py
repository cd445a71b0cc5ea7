"""Many texts or many judges? What a student learns from one teacher's word on each text, and from several's on fewer.

    python benchmarks/judges.py

Teachers and transfer set are those of `benchmarks/student_quality.py`, whose --work it shares; the students have the
settings of its row "+ surprisal", where n teachers judge all texts. Here they all judge a random nth of the texts, or
one of them each text: that costs the same, and an nth of what it costs there. Students read fewer texts so much more
often that their trainings are about equally long; the labelled texts too, as one with fewer texts would. Scores are
those on CoLA's development split, which chooses nothing, and, as `elsewhere`, on the embedded corpus. What is finished
stands in --work; the same command goes on with it. The result is `benchmarks/results/judges.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from common import over_seeds, write_result
from potstill.config import PotstillConfig
from potstill.data import load_corpus
from potstill.models import load_teachers
from potstill.pipeline import distill
from potstill.search import with_settings
from potstill.transfer.sets import TransferSet
from student_quality import SURPRISAL, compare, load_config, scores, student_arguments, train_rows

ROWS = FEWER, MANY = "fewer texts, all teachers judge each", "many texts, one teacher judges each"


def main() -> None:
    """Make what is missing, then write the result."""
    args = student_arguments(__doc__).parse_args()
    config = with_settings(load_config(), dict(SURPRISAL))
    runs = train_rows(config, dict.fromkeys(ROWS, ""), train_row, args, "judges.jsonl")
    write_result(
        args.out,
        runs,
        rows=[summarise(name, runs) for name in ROWS],
        paired_test=compare(MANY, FEWER, runs),
        teachers=json.loads((args.work / "teachers.json").read_text()),
    )


def train_row(config: PotstillConfig, name: str, seed: int, teachers: Path, work: Path) -> dict[str, Any]:
    """Train one row with one seed and return what came of it."""
    corpus, transfer = load_corpus(config.data), TransferSet.load(work / "transfer")
    loaded = load_teachers(teachers, config.runtime, "average")
    judges = 1 if name == MANY else len(loaded)
    settings: dict[str, Any] = {"distillation.judges": judges}
    if name == FEWER:
        every = len(corpus.train) + len(transfer)
        drawn = np.random.default_rng(0).permutation(len(transfer))
        transfer = transfer.take(sorted(drawn[: len(transfer) // judges].tolist()))
        longer = every / (len(corpus.train) + len(transfer))
        epochs = {"training": config.student.training.epochs, "pretraining": config.student.pretraining.epochs}
        settings |= {f"student.{part}.epochs": round(count * longer) for part, count in epochs.items()}
    directory = work / "judges" / name.replace(" ", "-") / f"seed-{seed}"
    trained = distill(with_settings(config, settings), corpus, loaded, directory, seed, transfer=transfer)
    return {
        "name": name,
        "seed": seed,
        **scores(trained, corpus),
        "selection_kl": trained.fit.best["selection_kl"],
        "transfer_sentences": len(transfer),
        "judgements": len(transfer) * judges,
    }


def summarise(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row of the table: means and spreads."""
    own = [run for run in runs if run["name"] == name]
    return {
        "name": name,
        **{score: over_seeds([run[score] for run in own]) for score in ("mcc", "elsewhere", "selection_kl")},
        **{count: own[0][count] for count in ("transfer_sentences", "judgements")},
    }


if __name__ == "__main__":
    main()
