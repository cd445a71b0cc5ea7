"""What students leave without an answer: coverage and error on test texts, and requests that belong to no class.

    python benchmarks/abstention.py --tasks ../shared/tasks --only trec6 clinc150_small --work runs/abstention

Each task is a directory with train.csv, test.csv and perhaps oos_test.csv: texts that belong to no class. Students
learn from the labels alone, with the settings of `--preset`. TARGETS: with a max_error of 5 %, at most 6 % of the
answers to test texts are wrong, for every seed; at 90 % coverage, at least half of the texts of no class get no answer.
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

import potstill
from common import Run, arguments, target, write_result
from potstill.config import PotstillConfig
from potstill.data import Corpus, load_corpus
from potstill.errors import ArtifactError

MAX_ERROR, COVERAGE, SET_ERROR = 0.05, 0.9, 0.1


def main() -> None:
    """Train, measure and write the result."""
    parser = arguments(__doc__, rounds=False, seed=False)
    parser.add_argument("--tasks", type=Path, required=True, help="directory with a directory for each task")
    parser.add_argument("--only", nargs="+", required=True, help="names of tasks")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the students")
    parser.add_argument("--work", type=Path, default=Path("runs/abstention"), help="where students are kept")
    parser.add_argument("--preset", default="balanced", help="default: what `potstill run FILE` takes")
    args = parser.parse_args()
    runs = []
    for name in args.only:
        config = PotstillConfig.build({"preset": args.preset, "data": {"source": str(args.tasks / name)}})
        corpus, outside = load_corpus(config.data), args.tasks / name / "oos_test.csv"
        lines = outside.read_text(encoding="utf-8").splitlines() if outside.is_file() else []
        foreign = [row["text"] for row in csv.DictReader(lines)]
        for seed in args.seeds:
            directory = args.work / name / f"seed-{seed}"
            if not (directory / "training.json").is_file():
                potstill.train(config, corpus, directory, seed)
            runs.append({"task": name, "seed": seed, **measure(directory, corpus, foreign)})
    errors = [run["max_error"]["error"] for run in runs if run["max_error"]["coverage"]]
    refused = [run["outside_without_answer"] for run in runs if run["outside_without_answer"] is not None]
    targets = [target("largest error on test with a max_error of 5 %", 0.06, max(errors), "at most")]
    if refused:
        targets.append(target("texts of no class without an answer at 90 % coverage", 0.5, min(refused), "at least"))
    write_result(args.out, runs, targets=targets)


def measure(directory: Path, corpus: Corpus, foreign: list[str]) -> Run:
    """Let a student abstain in both ways."""
    covering = potstill.Classifier.load(directory, coverage=COVERAGE)
    sets = covering.prediction_sets(corpus.test.texts, SET_ERROR)
    names = [corpus.label_names[label] for label in corpus.test.labels]
    found: Run = {"error": selective(potstill.Classifier.load(directory), corpus)["error"]}
    try:
        found["max_error"] = selective(potstill.Classifier.load(directory, max_error=MAX_ERROR), corpus)
    except ArtifactError:
        found["max_error"] = {"coverage": 0.0, "error": None}
    return found | {
        "coverage": selective(covering, corpus),
        "outside_without_answer": fmean(one is None for one in covering.predict(foreign)) if foreign else None,
        "sets": {
            "missing": fmean(name not in map(str, one) for one, name in zip(sets, names, strict=True)),
            "labels": fmean(map(len, sets)),
        },
    }


def selective(classifier: potstill.Classifier, corpus: Corpus) -> dict[str, Any]:
    """Return the share of test texts that are answered, and the share of errors among the answers."""
    answers = classifier.predict(corpus.test.texts).tolist()
    pairs = zip(answers, corpus.test.labels, strict=True)
    wrong = np.array([str(one) != corpus.label_names[label] for one, label in pairs if one is not None])
    return {"coverage": len(wrong) / len(answers), "error": float(wrong.mean()) if len(wrong) else None}


if __name__ == "__main__":
    main()
