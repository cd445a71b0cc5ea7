"""What `potstill run FILE` does by default, on public tasks, beside a linear SVM and fastText.

    python benchmarks/tasks.py --tasks ../shared/tasks --only tweet_emotion --work runs/tasks

Each task is a directory with train.csv and test.csv, or a name that `--data` knows. The linear SVM is that of the run's
report. fastText chooses its settings itself on the run's validation split, for `--fasttext-seconds`. `minutes` are
those of the training; the teacher's answers to unlabelled texts are in none of the rows, but in `run_minutes`.
`student` names the row of the student that the run recommends, by its validation split.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sklearn.metrics import accuracy_score, f1_score

from common import arguments, over_seeds, write_result
from potstill.config import PotstillConfig
from potstill.data import Corpus, load_corpus
from potstill.evaluation import paired_test
from potstill.experiment.run import run
from potstill.store.atomic import read_json


def main() -> None:
    """Run every task, compare, write."""
    parser = arguments(__doc__, rounds=False, seed=False)
    parser.add_argument("--tasks", type=Path, required=True, help="directory with a directory for each task")
    parser.add_argument("--only", nargs="+", help="names of tasks; default: all in --tasks")
    parser.add_argument("--work", type=Path, default=Path("runs/tasks"), help="where runs are kept and resumed")
    parser.add_argument("--preset", default="balanced", help="default: what `potstill run FILE` takes")
    parser.add_argument("--fasttext-seconds", type=int, default=60, help="for its choice of settings; 0: leave it out")
    parser.add_argument("--keep", action="store_true", help="keep the tasks of the result file that are not run")
    args = parser.parse_args()
    names = args.only or sorted(path.name for path in args.tasks.iterdir() if (path / "train.csv").is_file())
    tasks = {}
    if args.keep and args.out.is_file():
        tasks = {task["name"]: task for task in read_json(args.out)["tasks"]}
    for name in names:
        directory = args.tasks / name
        source = str(directory) if directory.is_dir() else name
        tasks[name] = one_task(name, source, args.work / name, args.preset, args.fasttext_seconds)
        write(args.out, list(tasks.values()))


def write(out: Path, tasks: list[dict[str, Any]]) -> None:
    """Write all tasks, how much of the gap to the teacher students close, and the test over tasks."""
    closed = {task["name"]: share for task in tasks if (share := gap_closed(task)) is not None}
    ahead = {task["name"]: of(task, student(task)) - of(task, "linear SVM") for task in tasks}
    of_role = {role: dict(enumerate(of(task, role) for task in tasks)) for role in ("distilled", "baseline")}
    test = paired_test(of_role["distilled"], of_role["baseline"])  # over tasks: seeds of one share their teacher
    write_result(
        out,
        [],
        tasks=tasks,
        gap_closed={"mean": fmean(closed.values()) if closed else None, "by_task": closed},
        ahead_of_linear_svm={"mean": fmean(ahead.values()), "by_task": ahead},
        distilled_against_baseline=None if test is None else vars(test),
    )


def one_task(name: str, source: str, work: Path, preset: str, fasttext_seconds: int) -> dict[str, Any]:
    """Run one task and collect its rows."""
    config = PotstillConfig.build({"preset": preset, "data": {"source": source}})
    corpus, started = load_corpus(config.data), time.perf_counter()
    summary, _ = run(config, work)
    minutes = (time.perf_counter() - started) / 60
    with (work / "predictions.csv").open(encoding="utf-8", newline="") as file:
        answers = list(csv.DictReader(file))
    labels = [row["label"] for row in answers]

    def row(name: str, columns: Sequence[str], *costs: float) -> dict[str, Any]:
        return row_of(name, labels, [[row[column] for row in answers] for column in columns], *costs)

    rows = []
    if (linear := summary.linear) is not None:
        costs = (linear.bytes_on_disk, linear.texts_per_second, linear.train_seconds)
        rows.append(row("linear SVM", ["linear"], *costs))
    if fasttext_seconds and corpus.train.pairs is None:
        rows.append(fasttext_row(corpus, fasttext_seconds))
    for role in summary.roles:
        models = summary.of(role)
        speed = fmean(model.texts_per_second for model in models)
        seconds = fmean(model.train_seconds for model in models)
        rows.append(row(role, [f"{role} {model.seed}" for model in models], models[0].bytes_on_disk, speed, seconds))
    known = len(corpus.train) + len(corpus.validation)
    sizes = {"train": known, "classes": corpus.num_classes, "run_minutes": minutes}
    return {"name": name, **sizes, "student": summary.recommended_role, "rows": rows}


def row_of(
    name: str, labels: Sequence[str], answers: Sequence[Sequence[str]], size: float, speed: float, seconds: float
) -> dict[str, Any]:
    """Describe models of one kind by their answers, one list for each seed."""
    return {
        "name": name,
        "accuracy": over_seeds([float(accuracy_score(labels, found)) for found in answers]),
        "macro_f1": over_seeds([float(f1_score(labels, found, average="macro")) for found in answers]),
        "bytes": int(size),
        "texts_per_s": speed,
        "minutes": seconds / 60,
    }


def fasttext_row(corpus: Corpus, seconds: int) -> dict[str, Any]:
    """Let fastText choose its settings on the validation split, and score it on the test split."""
    import fasttext

    with tempfile.TemporaryDirectory() as directory:
        files = {part: Path(directory, part) for part in ("train", "validation")}
        for part, file in files.items():
            examples = getattr(corpus, part)
            pairs = zip(examples.labels.tolist(), examples.texts, strict=True)
            file.write_text("".join(f"__label__{label} {_line(text)}\n" for label, text in pairs), "utf-8")
        started = time.perf_counter()
        model = fasttext.train_supervised(
            str(files["train"]), autotuneValidationFile=str(files["validation"]), autotuneDuration=seconds, verbose=0
        )
        fitted = time.perf_counter() - started
        saved = Path(directory, "model.bin")
        model.save_model(str(saved))
        size = saved.stat().st_size
    lines = [_line(text) for text in corpus.test.texts]
    started = time.perf_counter()
    found, _ = model.predict(lines)
    speed = len(lines) / (time.perf_counter() - started)
    answers = [one[0].removeprefix("__label__") if one else "" for one in found]
    return row_of("fastText", list(map(str, corpus.test.labels)), [answers], size, speed, fitted)


def _line(text: str) -> str:
    return " ".join(text.split())


def of(task: dict[str, Any], name: str) -> float:
    """Return the mean accuracy of a row."""
    return next(float(row["accuracy"]["mean"]) for row in task["rows"] if row["name"] == name)


def gap_closed(task: dict[str, Any]) -> float | None:
    """Return which share of the way from the linear SVM's accuracy to the teacher's the student goes."""
    start = of(task, "linear SVM")
    gap = of(task, "teacher") - start
    return (of(task, student(task)) - start) / gap if gap > 0 else None


def student(task: dict[str, Any]) -> str:
    """Name the row of the student to use; before there was a choice, it was the distilled one."""
    return str(task.get("student", "distilled"))


if __name__ == "__main__":
    main()
