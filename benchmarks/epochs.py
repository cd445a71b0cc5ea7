"""Which epoch of a student should be kept? Three ways compared, on students trained for this.

    python benchmarks/epochs.py

Teachers and unlabelled set are those of `benchmarks/student_quality.py`, whose --work it shares: made if need be. One
row of students is distilled as in its row "+ surprisal", the other learns from the labels alone. After each epoch their
logits for CoLA's validation split are kept. That split is then cut in two at random, often: one half chooses the epoch,
as `training.metric` and `training.keep` say, and the decision threshold, as `student.threshold: tuned` has it; the MCC
on the other half tells what they are worth. `mcc` and `loss` take the epoch with the best one, `last` the last. The
same command resumes what is finished in --work.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import from_numpy

from common import over_seeds, write_result
from potstill.augment.unlabelled import UnlabelledSet
from potstill.distillation import Distillation
from potstill.evaluation import compute_metrics
from potstill.experiment.search import with_settings
from potstill.experiment.stages import distill
from potstill.student.student import Student
from potstill.training.base import Callback, Record
from potstill.training.compute import EXACT, make_fabric
from potstill.training.fit import Trainer
from potstill.training.inference import predict_logits
from student_quality import SURPRISAL, TWENTY, corpus, directory, load_config, opened, student_arguments, train_rows
from thresholds import worth

WAYS = ("mcc", "loss", "last")
CUTS = 200
"""Times that the validation split is cut in two."""
DISTILLED, ALONE = "distilled", "labels alone"
NO_TEACHER = {"distillation.alpha": 1.0, "student.embedding_init": "random", "student.pretraining.epochs": 0}
ROWS: Mapping[str, Mapping[str, Any]] = {DISTILLED: SURPRISAL, ALONE: TWENTY | NO_TEACHER}


def main() -> None:
    """Train what is missing, then write the result."""
    args = student_arguments(__doc__, ROWS).parse_args()
    runs = train_rows(train_row, args, "epochs")
    write_result(args.out, runs, cuts=CUTS, rows=[summarise(name, runs) for name in args.rows])


def train_row(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one row with one seed and return what each way is worth."""
    # One that is resumed would report its first epochs again, when their weights are gone.
    config = with_settings(load_config(), {**ROWS[name], "runtime.checkpoint_seconds": None})
    task, teacher = corpus(), opened(args.teachers)
    unlabelled = UnlabelledSet.load(args.work / "unlabelled") if name == DISTILLED else None
    students: list[Student] = []
    logits: list[NDArray[np.float32]] = []

    class Note(Callback):
        """Classifies the validation split after each epoch."""

        def on_epoch(self, trainer: Trainer, record: Record) -> None:
            """Classify it."""
            data = students[0].featurise(task.validation)
            logits.append(predict_logits(trainer.model, data, make_fabric(EXACT)).numpy())

    place, note = directory(args.work, "epochs", name, seed), [Note()]
    distill(config, task, teacher, place, seed, unlabelled=unlabelled, on_student=students.append, callbacks=note)
    data = students[0].featurise(task.validation, teacher.logits(task.validation))
    loss, numbers = (
        Distillation(alpha=config.distillation.alpha, temperature=config.distillation.temperature),
        np.arange(len(data)),
    )
    losses = [  # of each text by itself
        np.array([float(loss(from_numpy(epoch[[n]]), data.batch(numbers[[n]]))["loss"]) for n in numbers])
        for epoch in logits
    ]
    found = compare(logits, losses, task.validation.labels)
    return {"name": name, "seed": seed, **found}


def compare(
    epochs: list[NDArray[np.float32]], losses: list[NDArray[np.float32]], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Return the MCC and the epoch of each way, means over the cuts.

    Args:
        epochs: Logits after each epoch, (texts, 2).
        losses: Loss of each text after each epoch, (texts,).
        labels: Class indices, (texts,).
    """
    generator = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for way in WAYS for name in (way, f"{way}_epoch")}
    for _ in range(CUTS):
        choosing, other = np.array_split(generator.permutation(len(labels)), 2)
        lower_losses = [-float(loss[choosing].mean()) for loss in losses]
        mccs = [compute_metrics(labels[choosing], logits[choosing].argmax(axis=1), 2).mcc for logits in epochs]
        wanted = {  # as training has it, which takes the lower loss of equal scores
            "mcc": list(zip(mccs, lower_losses, strict=True)),
            "loss": lower_losses,
            "last": list(range(len(epochs))),
        }
        kept = {way: values.index(max(values)) for way, values in wanted.items()}
        scores = {n: worth(["expected"], epochs[n], labels, choosing, other)["expected"] for n in set(kept.values())}
        for way in WAYS:
            found[way].append(scores[kept[way]])
            found[f"{way}_epoch"].append(kept[way] + 1)
    return {name: fmean(values) for name, values in found.items()}


def summarise(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row: each way's MCC and epoch over the students."""
    own = [run for run in runs if run["name"] == name]
    return {
        "name": name,
        **{field: over_seeds([run[field] for run in own]) for way in WAYS for field in (way, f"{way}_epoch")},
        "last_ahead": sum(run["last"] > run["mcc"] for run in own),
    }


if __name__ == "__main__":
    main()
