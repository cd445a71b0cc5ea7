"""How is a threshold best chosen from a few hundred labels? Three ways, on students that are there.

    python benchmarks/thresholds.py

Takes every student that `benchmarks/student_quality.py` and `benchmarks/judges.py` have trained in --work. Their logits
for CoLA's selection split are cut in two at random, often: one half chooses the threshold, the MCC on the other half
tells what it is worth. `argmax` chooses nothing, `counted` takes what has the best MCC on the first half, `expected`
what `student.threshold: tuned` takes: where the best MCC is to be expected. All of the split has chosen the students'
epochs, by the MCC of `argmax`, which therefore looks a little better than it is. The development split is not read. The
result is `benchmarks/results/thresholds.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import arguments, over_seeds, write_result
from potstill.data import Examples, load_corpus
from potstill.evaluation import compute_metrics
from potstill.evaluation.calibration import best_threshold, fit_temperature, fit_threshold
from potstill.models import StudentModel
from potstill.pipeline import Trained
from potstill.runtime import Classifier
from potstill.runtime.decision import decide, softmax
from student_quality import WORK, load_config

WAYS = ("argmax", "counted", "expected")
PARTS = ("judges", "students")
"""Where in --work the two keep their students."""


def main() -> None:
    """Measure every student, then write the result."""
    parser = arguments(__doc__, rounds=False)
    parser.add_argument("--work", type=Path, default=WORK, help="where the students are")
    parser.add_argument("--splits", type=int, default=200, help="times that the selection split is cut in two")
    args = parser.parse_args()
    selection = load_corpus(load_config().data).selection
    found = sorted(file.parent for part in PARTS for file in args.work.glob(f"{part}/**/seed-*/student.json"))
    places = [place for place in found if Trained.is_complete(place)]
    if not places:
        sys.exit(f"{args.work}: expected students, found none; run benchmarks/student_quality.py first")
    runs = [
        {"name": place.parent.name.replace("-", " "), "seed": place.name} | measure(place, selection, args)
        for place in places
    ]
    names = dict.fromkeys(run["name"] for run in runs)
    rows = [summarise(name, [run for run in runs if run["name"] == name]) for name in names]
    write_result(args.out, runs, labels=-(-len(selection) // 2), rows=[*rows, summarise("all", runs)])


def measure(place: Path, selection: Examples, args: Any) -> dict[str, float]:
    """Return the MCC that each way's thresholds have on the halves that did not choose them, the mean over the cuts."""
    logits, generator = StudentModel(Classifier.load(place)).logits(selection), np.random.default_rng(args.seed)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.splits):
        choosing, other = np.array_split(generator.permutation(len(selection)), 2)
        for way, score in worth(WAYS, logits, selection.labels, choosing, other).items():
            found[way].append(score)
    return {way: fmean(scores) for way, scores in found.items()}


def worth(
    ways: Iterable[str],
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    choosing: NDArray[np.int64],
    other: NDArray[np.int64],
) -> dict[str, float]:
    """Return the MCC on the `other` texts of what the `choosing` ones choose, temperature and threshold, in each way.

    Args:
        ways: Some of `WAYS`.
        logits: (texts, 2).
        labels: Class indices, (texts,).
        choosing: Indices of texts.
        other: Indices of texts.
    """
    temperature = fit_temperature(logits[choosing], labels[choosing])
    probabilities = softmax(logits[other], temperature)

    def mcc(way: str) -> float:
        threshold = choose(way, logits[choosing], labels[choosing], temperature)
        return compute_metrics(labels[other], decide(probabilities, threshold), 2).mcc

    return {way: mcc(way) for way in ways}


def choose(way: str, logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float) -> float | None:
    """Choose a threshold in one of `WAYS`; None: the more probable class."""
    if way == "argmax":
        return None
    if way == "counted":
        return best_threshold(softmax(logits, temperature)[:, 1], labels)
    return fit_threshold(logits, labels, temperature)


def summarise(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row: each way's MCC over the students, and how many of these do better with `expected` than `counted`.

    There is no test: the students are measured on the same labels.
    """
    return {
        "name": name,
        **{way: over_seeds([run[way] for run in runs]) for way in WAYS},
        "students": len(runs),
        "expected_ahead": sum(run["expected"] > run["counted"] for run in runs),
    }


if __name__ == "__main__":
    main()
