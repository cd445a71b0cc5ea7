"""Which epoch of a student should be kept? Three ways, on students trained for this.

    python benchmarks/epochs.py

Teachers and transfer set are those of `benchmarks/student_quality.py`, whose --work it shares: made if need be. One row
of students is distilled as in its row "+ surprisal", the other learns from the labels alone. After each epoch their
logits for CoLA's selection split are noted. That split is then cut in two at random, often: one half chooses the epoch,
as `training.metric` says, and the decision threshold, as `student.threshold: tuned` has it; the MCC on the other half
tells what they are worth. `mcc` and `loss` take the epoch with the best one, `last` the last. The development split is
read for nothing but the teachers' own scores. What is finished stands in --work; the same command goes on with it. The
result is `benchmarks/results/epochs.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy
from torch.nn.functional import cross_entropy

from common import over_seeds, write_result
from potstill.config import PotstillConfig
from potstill.data import load_corpus
from potstill.distillation.loss import soft_divergences
from potstill.distillation.teacher_logits import judgement
from potstill.evaluation import compute_metrics
from potstill.models import load_teachers
from potstill.pipeline import distill
from potstill.search import with_settings
from potstill.student.model import Student
from potstill.training.compute import EXACT, make_fabric
from potstill.training.inference import predict_logits
from potstill.transfer.sets import TransferSet
from student_quality import SURPRISAL, TWENTY, load_config, student_arguments, train_rows
from thresholds import worth

WAYS = ("mcc", "loss", "last")
CUTS = 200
"""Times that the selection split is cut in two."""
DISTILLED, ALONE = "distilled", "labels alone"
NO_TEACHER = {"distillation.alpha": 1.0, "student.embedding_init": "random", "student.pretraining.epochs": 0}
ROWS: Mapping[str, Mapping[str, Any]] = {DISTILLED: SURPRISAL, ALONE: TWENTY | NO_TEACHER}


def main() -> None:
    """Train what is missing, then write the result."""
    args = student_arguments(__doc__, ROWS).parse_args()
    rows = {name: json.dumps(ROWS[name]) for name in args.rows}
    runs = train_rows(load_config(), rows, train_row, args, "epochs.jsonl")
    write_result(args.out, runs, cuts=CUTS, rows=[summarise(name, runs) for name in args.rows])


def train_row(config: PotstillConfig, name: str, seed: int, teachers: Path, work: Path) -> dict[str, Any]:
    """Train one row with one seed and return what each way is worth."""
    # One that is resumed would tell of its first epochs again, when their weights are gone.
    config = with_settings(config, {**ROWS[name], "runtime.checkpoint_seconds": None})
    corpus, loaded = load_corpus(config.data), load_teachers(teachers, config.runtime, "average")
    transfer = TransferSet.load(work / "transfer") if name == DISTILLED else None
    students: list[Student] = []
    epochs: list[Tensor] = []

    def note(_: dict[str, Any]) -> None:
        (student,) = students
        epochs.append(predict_logits(student.network, student.training_set(corpus.selection), make_fabric(EXACT)))

    directory = work / "epochs" / name.replace(" ", "-") / f"seed-{seed}"
    distill(config, corpus, loaded, directory, seed, transfer=transfer, on_student=students.append, on_epoch=note)
    labels, alpha = corpus.selection.labels, config.distillation.alpha
    judged, temperature = judgement(loaded, corpus.selection), config.distillation.temperature
    losses = [
        alpha * cross_entropy(logits, from_numpy(labels), reduction="none")
        + (1.0 - alpha) * soft_divergences(logits, judged, temperature)
        for logits in epochs
    ]
    found = compare([logits.numpy() for logits in epochs], [loss.numpy() for loss in losses], labels)
    return {"name": name, "seed": seed, **found}


def compare(
    epochs: list[NDArray[np.float32]], losses: list[NDArray[np.float32]], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Return each way's MCC on the halves that did not choose, and the epoch it chose: means over the cuts.

    Args:
        epochs: Logits of each epoch, (texts, 2).
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
    """Return a row: each way's MCC and epoch over the students.

    There is no test: the students are measured on the same labels.
    """
    own = [run for run in runs if run["name"] == name]
    return {
        "name": name,
        **{field: over_seeds([run[field] for run in own]) for way in WAYS for field in (way, f"{way}_epoch")},
        "last_ahead": sum(run["last"] > run["mcc"] for run in own),
    }


if __name__ == "__main__":
    main()
