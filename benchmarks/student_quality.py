"""What makes a student good: each step from labels alone to the shipped recipe, over seeds.

    python benchmarks/student_quality.py

Teachers are tuned once (or taken from --teachers), a transfer set of a fifth of the size that configs/cola.yaml asks
for is built and judged once, then every row trains its students, each in a process of its own with one thread, as many
at a time as there are cores. The shipped recipe's own row is that of `benchmarks/results/cola.json`. Scores are those
on CoLA's development split, which chooses nothing: rows and settings are fixed here, epochs come from the selection
split. `elsewhere` are the MCCs on the embedded corpus, of which nobody has read a sentence: `potstill evaluate MODEL
--data embedded` gives the same. What is finished stands in --work; the same command goes on with it: about three hours
on two cores. The result is `benchmarks/results/student_quality.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from common import RESULTS, arguments, finished, over_seeds, train_apart, write_result
from potstill.artifacts import digest
from potstill.config import DataConfig, PotstillConfig
from potstill.data import Corpus, Examples, load_corpus
from potstill.evaluation import paired_test
from potstill.files import write_json
from potstill.models import Measurement, StudentModel, TeacherModel, load_teachers, measure, measure_together
from potstill.pipeline import Trained, distill, finetune, have_judged, input_keys, train, transfer_set
from potstill.runtime import Classifier
from potstill.search import with_settings
from potstill.transfer.sets import TransferSet

SHARE = 5
"""The rows' transfer set is smaller than the shipped recipe's by this factor: all of it takes hours to be judged."""

WORK = Path("runs") / "student-quality"
"""Where what is finished is kept: teachers, transfer set, students."""

ALONE = "labels alone"
RNN_ALONE = "vanilla RNN, labels alone"
SHIPPED = f"+ {SHARE} times as many sentences, twice the units: configs/cola.yaml"

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
"""By name: which sources of the transfer set are read, None where there is no teacher, and what is set otherwise than
`load_config` says."""


def main() -> None:
    """Make what is missing, then write the table."""
    args = student_arguments(__doc__, ROWS).parse_args()
    rows = {name: json.dumps(ROWS[name]) for name in args.rows}
    runs = train_rows(load_config(), rows, train_row, args, "finished.jsonl")
    if args.rows == list(ROWS):
        runs += read_shipped()
    teacher = json.loads((args.work / "teachers.json").read_text())
    write_result(
        args.out,
        runs,
        rows=summarise(runs),
        teachers=teacher,
        transfer=TransferSet.load(args.work / "transfer").summary,
    )


def student_arguments(description: str | None, rows: Iterable[str] = ()) -> argparse.ArgumentParser:
    """Make a parser with the flags of benchmarks that train rows of students, each in a process of its own.

    Args:
        description: The script's docstring.
        rows: Names of which some may be chosen; none: all are always trained.
    """
    parser = arguments(description, rounds=False, seed=False)
    parser.add_argument("--seeds", type=int, default=5, help="seeds per row, from 0")
    parser.add_argument("--teachers", type=Path, help="tuned teachers; default: those in --work, tuned if need be")
    parser.add_argument("--work", type=Path, default=WORK, help="keeps what is finished")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    if names := list(rows):
        parser.add_argument("--rows", nargs="+", metavar="ROW", choices=names, default=names, help="rows to train")
    parser.add_argument("--train", nargs=2, metavar=("ROW", "SEED"), help=argparse.SUPPRESS)
    return parser


def train_rows(
    config: PotstillConfig,
    rows: Mapping[str, str],
    train: Callable[[PotstillConfig, str, int, Path, Path], dict[str, Any]],
    args: argparse.Namespace,
    file: str,
) -> list[dict[str, Any]]:
    """Train what is missing of `rows`, on teachers and transfer set that are made if need be.

    The script is called with `--train ROW SEED` for each student: that process trains it, prints its run and ends here.

    Args:
        config: The settings that all rows share.
        rows: By name, what decides a row beside them.
        train: Trains a row, with a seed, from teachers, in --work, and returns the run.
        args: Those of `student_arguments`.
        file: Where in --work what is finished is noted.

    Returns:
        A run for every row and seed.
    """
    teachers = args.teachers or args.work / "teachers"
    if args.train:
        name, seed = args.train
        sys.stdout.write(json.dumps(train(config, name, int(seed), teachers, args.work)))
        sys.exit()
    key = prepare(config, load_corpus(config.data), teachers, args.work)
    flags = ["--work", str(args.work), "--teachers", str(teachers)]
    return finished(
        args.work / file,
        [(name, seed) for seed in range(args.seeds) for name in rows],
        lambda name: digest([key, config.model_dump_json(), rows[name]]),
        lambda name, seed: train_apart([*flags, "--train", name, str(seed)]),
        args.jobs,
    )


def load_config() -> PotstillConfig:
    """Return the settings of the rows: those of configs/cola.yaml, but for sizes and the choice of an epoch."""
    config = PotstillConfig.load(RESULTS.parents[1] / "configs" / "cola.yaml")
    sizes = {f"transfer.{kind}": getattr(config.transfer, kind) // SHARE for kind in ("sampled", "perturbed")}
    smaller = {"student.hidden_size": config.student.hidden_size // 2, "student.training.metric": "mcc"}
    return with_settings(config, sizes | smaller)


def read_shipped() -> list[dict[str, Any]]:
    """Tell of the distilled students of `benchmarks/results/cola.json`, as `train_row` does of its own."""
    result = json.loads((RESULTS / "cola.json").read_text())
    students, transfer = result["distilled"], result["transfer"]
    return [
        {
            "name": SHIPPED,
            "seed": seed,
            **{score: students[score]["seeds"][n] for score in ("mcc", "accuracy")},
            **{field: result[field]["distilled"][n] for field in ("selection_mcc", "best_epoch")},
            "parameters": students["parameters"],
            "seconds": result["train_seconds"]["distilled"][n],
            "transfer_sentences": transfer["sampled"] + transfer["perturbed"],
        }
        for n, seed in enumerate(result["seed"]["distilled"])
    ]


def prepare(config: PotstillConfig, corpus: Corpus, teachers: Path, work: Path) -> str:
    """Tune the teachers and build and judge the transfer set, where that has not been done; measure the teachers.

    Args:
        config: The settings of the rows.
        corpus: The task.
        teachers: Where tuned ones are; those in `work` are tuned here.
        work: Where what is made is kept.

    Returns:
        A digest of teachers and transfer set.
    """
    if teachers == work / "teachers":
        for seed in config.teacher.seeds:
            if Trained.find(place := teachers / f"seed-{seed}") is None:
                finetune(config, corpus, place, seed)
    loaded = load_teachers(teachers, config.runtime, "average")
    transfer = transfer_set(config, corpus, loaded, work / "transfer")
    have_judged(config, corpus, loaded, transfer)
    key = digest([str(input_keys(loaded, transfer))])
    noted = work / "teachers.json"
    if not noted.is_file() or json.loads(noted.read_text()).get("key") != key:
        here, there = (
            mccs([measure(TeacherModel(one), examples) for one in loaded], examples)
            for examples in (corpus.evaluation, elsewhere())
        )
        write_json(noted, here | {"elsewhere": there, "key": key})
    return key


def mccs(measured: list[Measurement], examples: Examples) -> dict[str, Any]:
    """Return the MCC of each of several teachers on the same texts, and that of their mean probability."""
    single = {f"teacher {number}": one.metrics.mcc for number, one in enumerate(measured)}
    return {"mcc": single, "average": measure_together(measured, examples).metrics.mcc}


def elsewhere() -> Examples:
    """Return judgements of another corpus, which nobody has learnt from."""
    return load_corpus(DataConfig(source="embedded")).evaluation


def train_row(config: PotstillConfig, name: str, seed: int, teachers: Path, work: Path) -> dict[str, Any]:
    """Train one row with one seed and return what came of it."""
    sources, settings = ROWS[name]
    config = with_settings(config, dict(settings))
    corpus = load_corpus(config.data)
    directory = work / "students" / name.replace(" ", "-") / f"seed-{seed}"
    read = 0
    if sources is None:
        trained = train(config, corpus, directory, seed)
    else:
        loaded = load_teachers(teachers, config.runtime, "average")
        transfer = TransferSet.load(work / "transfer").only(sources)
        read = len(transfer)
        trained = distill(config, corpus, loaded, directory, seed, transfer=transfer if read else None)
    return {"name": name, "seed": seed, **scores(trained, corpus), "transfer_sentences": read}


def scores(trained: Trained, corpus: Corpus) -> dict[str, Any]:
    """Return what is told of one student."""
    model = StudentModel(Classifier.load(trained.directory))
    measured = measure(model, corpus.evaluation)
    return {
        "mcc": measured.metrics.mcc,
        "accuracy": measured.metrics.accuracy,
        "elsewhere": measure(model, elsewhere()).metrics.mcc,
        "selection_mcc": trained.fit.best["mcc"],
        "best_epoch": trained.fit.best["epoch"],
        "parameters": trained.record.parameters,
        "seconds": trained.record.train_seconds,
    }


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the table, a row for each name among the runs: mean, spread, and paired tests.

    What has a teacher is compared with a network of its kind that learns from the labels alone, and with the row above.
    """
    order = list(ROWS)
    order.insert(order.index(RNN_ALONE), SHIPPED)
    rows: list[dict[str, Any]] = []
    for name in order:
        own = sorted((run for run in runs if run["name"] == name), key=itemgetter("seed"))
        if not own:
            continue
        row: dict[str, Any] = {
            "name": name,
            "mcc": over_seeds([run["mcc"] for run in own]),
            "selection_mcc": over_seeds([run["selection_mcc"] for run in own]),
            "elsewhere": over_seeds([run["elsewhere"] for run in own]) if name != SHIPPED else None,
            "parameters": own[0]["parameters"],
            "transfer_sentences": own[0]["transfer_sentences"],
        }
        if name not in (ALONE, RNN_ALONE):
            row["paired_test"] = compare(name, RNN_ALONE if "RNN" in name else ALONE, runs)
            above = rows[-1]["name"] if rows else None
            row["step_test"] = compare(name, above, runs)
            row["elsewhere_step_test"] = compare(name, above, runs, "elsewhere")
        rows.append(row)
    return rows


def by_seed(name: str | None, runs: list[dict[str, Any]], score: str) -> dict[int, float]:
    """Return a score of a row's students, by seed; of no row, and of students without it, nothing."""
    return {run["seed"]: run[score] for run in runs if run["name"] == name and score in run}


def compare(name: str, against: str | None, runs: list[dict[str, Any]], score: str = "mcc") -> dict[str, Any] | None:
    """Compare two rows over the seeds that both have, at least two; None with fewer, or where one is not there."""
    test = paired_test(by_seed(name, runs, score), by_seed(against, runs, score))
    if test is None or test.seeds < 2:
        return None
    return {"against": against, "difference": test.mean_difference, "p_value": test.p_value}


if __name__ == "__main__":
    main()
