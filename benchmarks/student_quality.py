"""What makes a student good: each step from labels alone to the shipped recipe, over seeds.

    python benchmarks/student_quality.py

Teachers are tuned once (or taken from --teachers), the transfer set is built and judged once, then every row trains
its students, each in a process of its own with one thread, as many at a time as there are cores. Scores are those on
CoLA's development split, which chooses nothing: rows and settings are fixed here, epochs come from the selection split.
What is finished stands in --work; the same command goes on with it. The result is
`benchmarks/results/student_quality.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

from common import arguments, finished, over_seeds, train_apart, write_result
from potstill.artifacts import digest
from potstill.config import PotstillConfig
from potstill.data import Corpus, load_corpus
from potstill.evaluation import Role, paired_test
from potstill.files import write_json
from potstill.models import StudentModel, TeacherModel, load_teachers, measure, measure_together
from potstill.pipeline import Trained, distill, finetune, input_keys, train, transfer_set
from potstill.runtime import Classifier
from potstill.transfer.sets import TransferSet

RNN = {"cell": "rnn", "bidirectional": False, "pooling": "last", "pretraining": {"epochs": 1}, "surprisal_size": 0}
"""The reference experiment's network (configs/reference.yaml); it soon knows what little language it can hold."""
PLAIN = {"embedding_init": "random", "pretraining": {"epochs": 0}, "surprisal_size": 0}
SVD = {"pretraining": {"epochs": 0}, "surprisal_size": 0}
ALONE = "labels alone"
RNN_ALONE = "vanilla RNN, labels alone"
SHIPPED = "+ surprisal and all sentences: configs/cola.yaml"
EVERY = 8
"""The rows between learn from every eighth sentence of the transfer set: with all, each would take an hour."""

ROWS: dict[str, dict[str, Any]] = {
    ALONE: {"alone": True},
    "distilled on the training sentences": {"student": PLAIN, "sources": ()},
    "+ perturbed sentences": {"student": PLAIN, "sources": ("perturbed:*",)},
    "+ sampled and perturbed sentences": {"student": PLAIN, "sources": ("*",)},
    "+ the teacher's embeddings": {"student": SVD, "sources": ("*",)},
    "+ language modelling first": {"student": {"surprisal_size": 0}, "sources": ("*",)},
    SHIPPED: {"sources": ("*",)},
    RNN_ALONE: {"alone": True, "student": RNN},
    "vanilla RNN, distilled": {"student": RNN, "sources": ("*",)},
}
"""By name: whether only the labels are learnt from, what of the student's settings in configs/cola.yaml is different,
and which sources of the transfer set are read, of all but the shipped student one text in `EVERY`."""

FROM_RUN: dict[str, Role] = {ALONE: "baseline", SHIPPED: "distilled"}
"""Rows that are part of a run of configs/cola.yaml."""

AGAINST = {name: RNN_ALONE if "RNN" in name else ALONE for name in ROWS if name not in (ALONE, RNN_ALONE)}
"""The row from labels alone that a row is compared with; each is compared with the row above it, too."""


def main() -> None:
    """Make what is missing, then write the table."""
    parser = arguments(__doc__, rounds=False, seed=False)
    parser.add_argument("--seeds", type=int, default=5, help="seeds per row, from 0")
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", choices=list(ROWS), default=list(ROWS), help="rows to train"
    )
    parser.add_argument("--teachers", type=Path, help="tuned teachers; default: they are tuned")
    parser.add_argument("--run", type=Path, help="a finished run of configs/cola.yaml: its students are taken")
    parser.add_argument("--work", type=Path, default=Path("runs") / "student-quality", help="keeps what is finished")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument("--train", nargs=2, metavar=("ROW", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    teachers = args.teachers or args.work / "teachers"
    config = PotstillConfig.load(Path(__file__).parent.parent / "configs" / "cola.yaml")
    if args.train:
        name, seed = args.train
        sys.stdout.write(json.dumps(train_row(config, name, int(seed), teachers, args.work)))
        return
    key = prepare(config, load_corpus(config.data), teachers, args.work)
    settings = [key, str(EVERY), config.model_dump_json()]
    flags = ["--work", str(args.work), "--teachers", str(teachers)]
    given = read_run(config, args.run) if args.run else []
    taken = {(run["name"], run["seed"]) for run in given}
    runs = given + finished(
        args.work / "finished.jsonl",
        [pair for seed in range(args.seeds) for name in args.rows if (pair := (name, seed)) not in taken],
        lambda name: digest([*settings, json.dumps(ROWS.get(name))]),
        lambda name, seed: train_apart([*flags, "--train", name, str(seed)]),
        args.jobs,
    )
    names = [name for name in ROWS if any(run["name"] == name for run in runs)]
    teacher = json.loads((args.work / "teachers.json").read_text())
    write_result(
        args.out,
        runs,
        rows=[summarise(name, above, runs) for above, name in zip([None, *names], names, strict=False)],
        teachers=teacher,
        transfer=TransferSet.load(args.work / "transfer").summary,
    )


def read_run(config: PotstillConfig, directory: Path) -> list[dict[str, Any]]:
    """Tell of the students that `potstill run` trained with configs/cola.yaml."""
    corpus, runs = load_corpus(config.data), []
    for name, role in FROM_RUN.items():
        read = 0 if ROWS[name].get("alone") else len(TransferSet.load(directory / "transfer"))
        for seed in config.student.seeds:
            trained = Trained.find(directory / role / f"seed-{seed}")
            if trained is None:
                raise SystemExit(f"{directory}: expected a finished run, found no {role} student of seed {seed}")
            runs.append({"name": name, "seed": seed, **scores(trained, corpus), "transfer_sentences": read})
    return runs


def prepare(config: PotstillConfig, corpus: Corpus, teachers: Path, work: Path) -> str:
    """Tune the teachers and build and judge the transfer set, where that has not been done; measure the teachers.

    Returns:
        A digest of teachers and transfer set.
    """
    if not teachers.is_dir():
        for seed in config.teacher.seeds:
            finetune(config, corpus, teachers / f"seed-{seed}", seed)
    loaded = load_teachers(teachers, config.runtime, "average")
    transfer = transfer_set(config, corpus, loaded, work / "transfer")
    key = digest([str(input_keys(loaded, transfer))])
    noted = work / "teachers.json"
    if not noted.is_file() or json.loads(noted.read_text()).get("key") != key:
        measured = {f"teacher {n}": measure(TeacherModel(one), corpus.evaluation) for n, one in enumerate(loaded)}
        single = {name: one.metrics.mcc for name, one in measured.items()}
        together = measure_together(list(measured.values()), corpus.evaluation)
        write_json(noted, {"mcc": single, "average": together.metrics.mcc, "key": key})
    return key


def train_row(config: PotstillConfig, name: str, seed: int, teachers: Path, work: Path) -> dict[str, Any]:
    """Train one row with one seed and return what came of it."""
    row = ROWS[name]
    values = config.model_dump()
    values["student"] |= row.get("student", {})
    config = PotstillConfig.build(values)
    corpus = load_corpus(config.data)
    directory = work / "students" / name.replace(" ", "-") / f"seed-{seed}"
    read = 0
    if row.get("alone"):
        trained = train(config, corpus, directory, seed)
    else:
        loaded = load_teachers(teachers, config.runtime, "average")
        transfer = TransferSet.load(work / "transfer").only(row["sources"])
        transfer = transfer if name == SHIPPED else transfer.take(range(0, len(transfer), EVERY))
        read = len(transfer)
        trained = distill(config, corpus, loaded, directory, seed, transfer=transfer if read else None)
    return {"name": name, "seed": seed, **scores(trained, corpus), "transfer_sentences": read}


def scores(trained: Trained, corpus: Corpus) -> dict[str, Any]:
    """Return what is told of one student."""
    measured = measure(StudentModel(Classifier.load(trained.directory)), corpus.evaluation)
    return {
        "mcc": measured.metrics.mcc,
        "accuracy": measured.metrics.accuracy,
        "selection_mcc": trained.fit.best["mcc"],
        "best_epoch": trained.fit.best["epoch"],
        "parameters": trained.record.parameters,
        "seconds": trained.record.train_seconds,
    }


def summarise(name: str, above: str | None, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row of the table: mean, spread, and the paired tests against labels alone and the row above."""
    own = sorted((run for run in runs if run["name"] == name), key=itemgetter("seed"))
    row: dict[str, Any] = {
        "name": name,
        "mcc": over_seeds([run["mcc"] for run in own]),
        "selection_mcc": over_seeds([run["selection_mcc"] for run in own]),
        "parameters": own[0]["parameters"],
        "transfer_sentences": own[0]["transfer_sentences"],
    }
    if name in AGAINST:
        row["paired_test"] = compare(name, AGAINST[name], runs)
        row["step_test"] = compare(name, above, runs)
    return row


def by_seed(name: str | None, runs: list[dict[str, Any]]) -> dict[int, float]:
    """Return the MCC of a row's students, by seed; of no row, nothing."""
    return {run["seed"]: run["mcc"] for run in runs if run["name"] == name}


def compare(name: str, against: str | None, runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Compare two rows over the seeds that both have, at least two; None with fewer, or where one is not there."""
    test = paired_test(by_seed(name, runs), by_seed(against, runs))
    if test is None or test.seeds < 2:
        return None
    return {"against": against, "difference": test.mean_difference, "p_value": test.p_value}


if __name__ == "__main__":
    main()
