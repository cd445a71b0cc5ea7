"""What makes a student good: each step from labels alone to the shipped recipe, over seeds.

    python benchmarks/student_quality.py

Teachers are tuned once (or taken from --teachers). They label an unlabelled set of a fifth of the size that
configs/cola.yaml asks for. Then every row trains its students, each in a process of its own with one thread. Scores are
those on CoLA's development split, which chooses nothing: settings are fixed here, epochs come from the validation
split. `out_of_domain` are the MCCs on the builtin corpus, of which no model has read a sentence. The same
command resumes what is finished in --work; all of it takes about three hours on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import Any

from common import ROOT, arguments, over_seeds, run_script, write_result
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import DataConfig, PotstillConfig, with_settings
from potstill.data import Corpus, Examples, load_corpus
from potstill.evaluation import paired_test
from potstill.evaluation.measure import measure, measure_together
from potstill.experiment.labelled import label
from potstill.experiment.record import Trained
from potstill.experiment.run import unlabelled_set
from potstill.experiment.saved import StudentModel, load_teacher
from potstill.experiment.stages import distill, finetune, train
from potstill.predict import Classifier
from potstill.store.atomic import read_json, write_json
from potstill.teacher.base import Teacher

SHARE = 5
"""The rows' unlabelled set is smaller than the shipped recipe's by this factor: all of it takes hours to label."""

ALONE = "labels alone"
RNN_ALONE = "vanilla RNN, labels alone"

TWENTY, FIFTEEN, EIGHT = ({"student.training.epochs": epochs} for epochs in (20, 15, 8))
"""The fewer texts a row has, the more often it reads them."""
NO_SURPRISAL = {"student.surprisal_size": 0}
NO_LANGUAGE = NO_SURPRISAL | {"student.pretraining.epochs": 0}
PLAIN = NO_LANGUAGE | {"student.embedding_init": "random"}
LANGUAGE = {"student.pretraining.epochs": 4}
SURPRISAL = EIGHT | LANGUAGE
RNN = {
    **NO_SURPRISAL,
    "student.cell": "rnn",
    "student.bidirectional": False,
    "student.pooling": "last",
    "student.pretraining.epochs": 1,
}
"""The reference experiment's network (configs/reference.yaml); it soon knows what little language it can hold."""

ROWS: dict[str, tuple[Sequence[str] | None, Mapping[str, Any]]] = {
    ALONE: (None, TWENTY),
    "distilled on the training sentences": ((), TWENTY | PLAIN),
    "+ perturbed sentences": (("perturbed:*",), FIFTEEN | PLAIN),
    "+ sampled sentences": (("*",), EIGHT | PLAIN),
    "+ the teacher's embeddings": (("*",), EIGHT | NO_LANGUAGE),
    "+ language modelling first": (("*",), EIGHT | LANGUAGE | NO_SURPRISAL),
    "+ surprisal": (("*",), SURPRISAL),
    RNN_ALONE: (None, TWENTY | RNN),
    "vanilla RNN, distilled": (("*",), EIGHT | RNN),
}
"""By name: which sources of the unlabelled set are read, None where there is no teacher, and what is set otherwise than
`load_config` says."""


def main() -> None:
    """Make what is missing, then write the table.

    The script is called with `--train ROW SEED` for each student: that process trains it and prints its run.
    """
    parser = arguments(__doc__, rounds=False, seed=False)
    work = Path("runs") / "student-quality"
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=ROWS, default=[*ROWS], help="rows to train")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per row, from 0")
    parser.add_argument("--work", type=Path, default=work, help="keeps what is finished: for the same settings only")
    parser.add_argument("--teachers", type=Path, help="tuned teachers; default: those in --work, tuned if need be")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument("--train", nargs=2, metavar=("ROW", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.teachers = args.teachers or args.work / "teachers"
    if args.train:
        sys.stdout.write(json.dumps(train_row(args.train[0], int(args.train[1]), args)))
        return
    prepare(load_config(), corpus(), args.teachers, args.work)

    def run(name: str, seed: int) -> dict[str, Any]:
        file = directory(args.work, name, seed).with_suffix(".json")
        if not file.is_file():
            flags = ["--work", str(args.work), "--teachers", str(args.teachers)]
            write_json(file, run_script(*flags, "--train", name, str(seed)))
        return read_json(file)

    with ThreadPoolExecutor(args.jobs) as pool:
        runs = list(pool.map(lambda pair: run(*pair), itertools.product(args.rows, range(args.seeds))))
    teacher = opened(args.teachers)
    own, other = (measure_together(teacher.logits(part), part).metrics.mcc for part in (corpus().test, out_of_domain()))
    scores = {"average": own, "out_of_domain": {"average": other}}
    unlabelled = UnlabelledSet.load(args.work / "unlabelled").summary
    write_result(args.out, runs, rows=summarise(runs), teachers=scores, unlabelled=unlabelled)


def directory(work: Path, name: str, seed: int) -> Path:
    """Return where a student is kept."""
    return work / "students" / name.replace(" ", "-") / f"seed-{seed}"


def corpus() -> Corpus:
    """Return the task."""
    return load_corpus(load_config().data)


def load_config() -> PotstillConfig:
    """Return the settings of the rows: those of configs/cola.yaml, but for sizes and the choice of an epoch."""
    config = PotstillConfig.load(ROOT / "configs" / "cola.yaml")
    sizes = {f"augment.{kind}": getattr(config.augment, kind) // SHARE for kind in ("sampled", "perturbed")}
    smaller = {"student.hidden_size": config.student.hidden_size // 2, "student.training.keep": "best"}
    return with_settings(config, sizes | smaller)


def prepare(config: PotstillConfig, corpus: Corpus, teachers: Path, work: Path) -> None:
    """Tune the teachers, build and label the unlabelled set, where that has not been done."""
    if teachers == work / "teachers":
        for seed in config.teacher.seeds:
            if Trained.find(place := teachers / f"seed-{seed}") is None:
                finetune(config, corpus, place, seed)
    teacher = opened(teachers)
    label(config, corpus, teacher, unlabelled_set(config, corpus, teacher, work / "unlabelled"))


def opened(teachers: Path) -> Teacher:
    """Return the teachers as one, with a cache in front of it."""
    return load_teacher(teachers, with_settings(load_config(), {"distillation.teachers": "average"}))[0]


def out_of_domain() -> Examples:
    """Return labelled sentences of another corpus, which no model learns from."""
    return load_corpus(DataConfig(source="builtin")).test


def train_row(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one row with one seed and return its scores."""
    sources, settings = ROWS[name]
    config, task, read = with_settings(load_config(), dict(settings)), corpus(), 0
    place = directory(args.work, name, seed)
    if sources is None:
        trained = train(config, task, place, seed)
    else:
        unlabelled = UnlabelledSet.load(args.work / "unlabelled").only(sources)
        read = len(unlabelled)
        trained = distill(config, task, opened(args.teachers), place, seed, unlabelled=unlabelled if read else None)
    model = StudentModel(Classifier.load(trained.directory))
    measured = measure(model, task.test)
    return {
        "name": name,
        "seed": seed,
        "mcc": measured.metrics.mcc,
        "accuracy": measured.metrics.accuracy,
        "out_of_domain": measure(model, out_of_domain()).metrics.mcc,
        "validation_mcc": trained.fit.best["mcc"],
        "best_epoch": trained.fit.best["epoch"],
        "parameters": trained.record.parameters,
        "seconds": trained.record.train_seconds,
        "unlabelled_sentences": read,
    }


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table: means, spreads, and tests against labels alone and against the row above."""
    rows: list[dict[str, Any]] = []
    for name in ROWS:
        own = sorted((run for run in runs if run["name"] == name), key=itemgetter("seed"))
        if not own:
            continue
        row: dict[str, Any] = {
            "name": name,
            "mcc": over_seeds([run["mcc"] for run in own]),
            "validation_mcc": over_seeds([run["validation_mcc"] for run in own]),
            "out_of_domain": over_seeds([run["out_of_domain"] for run in own]),
            "parameters": own[0]["parameters"],
            "unlabelled_sentences": own[0]["unlabelled_sentences"],
        }
        if name not in (ALONE, RNN_ALONE):
            row["paired_test"] = compare(name, RNN_ALONE if "RNN" in name else ALONE, runs)
            above = rows[-1]["name"] if rows else None
            row["step_test"] = compare(name, above, runs)
        rows.append(row)
    return rows


def compare(name: str, against: str | None, runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Compare two rows over the seeds that both have, at least two; None with fewer, or where one is not there."""
    first, second = ({run["seed"]: run["mcc"] for run in runs if run["name"] == row} for row in (name, against))
    test = paired_test(first, second)
    if test is None or test.seeds < 2:
        return None
    return {"against": against, "difference": test.mean_difference, "p_value": test.p_value}


if __name__ == "__main__":
    main()
