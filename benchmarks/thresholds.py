"""How is a threshold best chosen from a few hundred labels? Three ways, on students that are trained already.

    python benchmarks/thresholds.py

The students are those that `benchmarks/student_quality.py` has trained in --work. Their logits for CoLA's validation
split are cut in two at random, often: one half chooses the threshold, the MCC on the other half tells what it is worth.
`argmax` chooses nothing, `counted` takes what has the best MCC on the first half, `expected` what `student.threshold:
tuned` takes: where the best MCC is to be expected. All of the split has chosen the students' epochs, by the MCC of
`argmax`, which therefore looks a little better than it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import arguments, over_seeds, write_result
from potstill.data import Examples
from potstill.evaluation import compute_metrics
from potstill.evaluation.calibration import best_threshold, fit_temperature, fit_threshold
from potstill.experiment.record import Trained
from potstill.experiment.saved import StudentModel
from potstill.predict import Classifier
from potstill.predict.decision import predict_class, softmax
from student_quality import corpus

WAYS = ("argmax", "counted", "expected")


def main() -> None:
    """Measure every student, then write the result."""
    parser = arguments(__doc__, rounds=False)
    parser.add_argument("--work", type=Path, default=Path("runs") / "student-quality", help="where the students are")
    parser.add_argument("--splits", type=int, default=200, help="times that the validation split is cut in two")
    args = parser.parse_args()
    validation = corpus().validation
    found = sorted(file.parent for file in args.work.glob("students/**/seed-*/student.json"))
    places = [place for place in found if Trained.is_complete(place)]
    if not places:
        sys.exit(f"{args.work}: expected students, found none; run benchmarks/student_quality.py first")
    runs = [
        {"name": place.parent.name.replace("-", " "), "seed": place.name} | measure(place, validation, args)
        for place in places
    ]
    names = dict.fromkeys(run["name"] for run in runs)
    rows = [summarise(name, [run for run in runs if run["name"] == name]) for name in names]
    write_result(args.out, runs, labels=-(-len(validation) // 2), rows=[*rows, summarise("all", runs)])


def measure(place: Path, validation: Examples, args: Any) -> dict[str, float]:
    """Return the MCC that each way's thresholds have on the halves that did not choose them, the mean over the cuts."""
    logits, generator = StudentModel(Classifier.load(place)).logits(validation), np.random.default_rng(args.seed)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.splits):
        choosing, other = np.array_split(generator.permutation(len(validation)), 2)
        for way, score in worth(WAYS, logits, validation.labels, choosing, other).items():
            found[way].append(score)
    return {way: fmean(scores) for way, scores in found.items()}


def worth(
    ways: Iterable[str],
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    choosing: NDArray[np.int64],
    other: NDArray[np.int64],
) -> dict[str, float]:
    """Choose temperature and threshold on the texts `choosing`, in each of some `WAYS`; return the MCCs on `other`."""
    known, answers = logits[choosing], labels[choosing]
    temperature = fit_temperature(known, answers)
    thresholds: dict[str, Callable[[], float | None]] = {
        "argmax": lambda: None,
        "counted": lambda: best_threshold(softmax(known, temperature)[:, 1], answers),
        "expected": lambda: fit_threshold(known, answers, temperature),
    }
    probabilities = softmax(logits[other], temperature)
    return {way: compute_metrics(labels[other], predict_class(probabilities, thresholds[way]()), 2).mcc for way in ways}


def summarise(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row: each way's MCC over the students, and how many do better with `expected` than `counted`."""
    return {
        "name": name,
        **{way: over_seeds([run[way] for run in runs]) for way in WAYS},
        "students": len(runs),
        "expected_ahead": sum(run["expected"] > run["counted"] for run in runs),
    }


if __name__ == "__main__":
    main()
