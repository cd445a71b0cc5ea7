"""What `potstill run FILE` does by default, on public tasks, beside a linear SVM.

    python benchmarks/tasks.py --tasks ../shared/tasks --only tweet_emotion --work runs/tasks

Each task is a directory with train.csv and test.csv. The linear SVM learns from word 1- and 2-grams and character 2- to
5-grams (TF-IDF), from training and validation texts together, since it chooses nothing. `minutes` are those of the
training; the teacher's answers to unlabelled texts are in none of the rows, but in `run_minutes`.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score

from common import arguments, over_seeds, write_result
from linear_svm import fit_linear_svm
from potstill.config import PotstillConfig
from potstill.data import Corpus, load_corpus
from potstill.evaluation import ROLES
from potstill.experiment.run import run


def main() -> None:
    """Run every task, compare, write."""
    parser = arguments(__doc__, rounds=False, seed=False)
    parser.add_argument("--tasks", type=Path, required=True, help="directory with a directory for each task")
    parser.add_argument("--only", nargs="+", help="names of tasks; default: all")
    parser.add_argument("--work", type=Path, default=Path("runs/tasks"), help="where runs are kept and resumed")
    parser.add_argument("--preset", default="balanced", help="default: what `potstill run FILE` takes")
    args = parser.parse_args()
    names = args.only or sorted(path.name for path in args.tasks.iterdir() if (path / "train.csv").is_file())
    tasks = [one_task(args.tasks / name, args.work / name, args.preset) for name in names]
    closed = {task["name"]: share for task in tasks if (share := gap_closed(task["rows"])) is not None}
    mean = fmean(closed.values()) if closed else None
    write_result(args.out, [], tasks=tasks, gap_closed={"mean": mean, "by_task": closed})


def one_task(data: Path, work: Path, preset: str) -> dict[str, Any]:
    """Run one task and score the linear SVM beside it."""
    config = PotstillConfig.build({"preset": preset, "data": {"source": str(data)}})
    corpus, started = load_corpus(config.data), time.perf_counter()
    summary, _ = run(config, work)
    minutes = (time.perf_counter() - started) / 60
    rows = [linear_svm(corpus)]
    for role in ROLES:
        models = summary.of(role)
        rows.append(
            {
                "name": role,
                "accuracy": over_seeds([model.metrics.accuracy for model in models]),
                "mcc": over_seeds([model.metrics.mcc for model in models]),
                "bytes": models[0].bytes_on_disk,
                "texts_per_s": fmean(model.texts_per_second for model in models),
                "minutes": fmean(model.train_seconds for model in models) / 60,
            }
        )
    known = len(corpus.train) + len(corpus.validation)
    return {"name": data.name, "train": known, "classes": corpus.num_classes, "run_minutes": minutes, "rows": rows}


def linear_svm(corpus: Corpus) -> dict[str, Any]:
    """Fit and score the linear SVM."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    model, seconds_of_fit = fit_linear_svm(corpus, words, characters)
    started = time.perf_counter()
    found = model.predict(corpus.test.texts)
    seconds = time.perf_counter() - started
    return {
        "name": "linear SVM",
        "accuracy": over_seeds([float((found == corpus.test.labels).mean())]),
        "macro_f1": over_seeds([float(f1_score(corpus.test.labels, found, average="macro"))]),
        "bytes": 4 * int(model[-1].coef_.size),
        "texts_per_s": len(corpus.test) / seconds,
        "minutes": seconds_of_fit / 60,
    }


def gap_closed(rows: list[dict[str, Any]]) -> float | None:
    """Return which share of the way from the linear SVM's accuracy to the teacher's the distilled student goes."""
    found = {row["name"]: row["accuracy"]["mean"] for row in rows}
    gap = found["teacher"] - found["linear SVM"]
    return (found["distilled"] - found["linear SVM"]) / gap if gap > 0 else None


if __name__ == "__main__":
    main()
