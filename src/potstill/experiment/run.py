"""The whole experiment: teachers, unlabelled text, distilled students, their baselines, the report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from potstill.augment.build import build_unlabelled_set, check_augment, files_key
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig
from potstill.console import Steps, print_line, warn
from potstill.data import Corpus, load_corpus
from potstill.evaluation import DataSummary, ModelResult, Role, Summary, mcnemar
from potstill.evaluation.details import Details, cases, confusion, risk_coverage
from potstill.evaluation.measure import Measurement, measure, measure_together
from potstill.experiment.labelled import check_distillation, check_teacher, label
from potstill.experiment.linear import learning_curve, measure_linear_svm, suspicious_labels
from potstill.experiment.record import Trained, TrainingRecord
from potstill.experiment.run_directory import ENVIRONMENT_FILE, RunSpec, run_directory
from potstill.experiment.saved import StudentModel
from potstill.experiment.stages import find_or_finetune
from potstill.experiment.students import StudentTask, train_students
from potstill.predict import Classifier
from potstill.predict.decision import predict_class, softmax
from potstill.predict.directory import CONFIG_FILE, UNLABELLED_FILE
from potstill.predict.wording import numbered
from potstill.report import is_reported, read_summary, write_report
from potstill.store.atomic import read_json, write_csv
from potstill.student.embeddings import check_embeddings
from potstill.student.student import check_tokenizer
from potstill.teacher.base import Teacher
from potstill.teacher.ensemble import average_logits, together
from potstill.teacher.registry import teacher_class
from potstill.teacher.transformer import share_base_weights

Predictions = dict[tuple[Role, int], NDArray[np.int64]]


def run(
    config: PotstillConfig,
    out: Path | None = None,
    *,
    name: str | None = None,
    command: str = "",
    restart: bool = False,
) -> tuple[Summary, Path]:
    """Do the whole experiment in a run directory: config, models, histories, plots, report.

    An interrupted run of the same settings and data is resumed, with the same results as an uninterrupted one.

    Args:
        config: All settings.
        out: The run directory: new or empty, or that of the same run, interrupted or finished (then nothing is done
            again). None: that of the newest interrupted one among `runs/NAME-*`, else `runs/NAME-DATE-TIME`.
        name: Its name; none: the data's.
        command: Command line that repeats the run, for the report.
        restart: Start again, even if there is an interrupted run.

    Returns:
        The results, as in `summary.json`, and the run directory.

    Raises:
        PotstillError: Data, backbone or settings can't be used; nothing is trained then.
    """
    corpus = load_corpus(config.data)
    config = resolved(config, corpus)
    teacher_class(config.teacher.kind).check(config.teacher)
    check_tokenizer(config.student)
    check_augment(config, corpus)
    check_distillation(config, with_unlabelled=config.augment.wanted(in_pairs=corpus.in_pairs))
    check_embeddings(config)
    inputs = {"texts": corpus.key(), "unlabelled files": files_key(config)}
    spec = RunSpec("run", name or corpus.name, config, inputs, is_reported, free=("search",))
    with run_directory(spec, out, restart=restart) as directory:
        if is_reported(directory):
            return read_summary(directory), directory
        print_line(f"{corpus.name} ({corpus.source}) → {directory}")
        print_line(_plan(config, corpus))
        return _experiment(config, corpus, directory, command), directory


def _experiment(config: PotstillConfig, corpus: Corpus, directory: Path, command: str) -> Summary:
    epochs: dict[Role, int | None] = {"distilled": None, "baseline": config.baseline.epochs}
    tasks = [
        StudentTask(role, seed, _place(directory, role, seed), epochs[role])
        for seed in config.student.seeds
        for role in epochs
    ]
    linear, linear_answers = measure_linear_svm(corpus)  # takes seconds; what it can't read is found at once
    steps = _steps(config, tasks, directory)
    predictions: Predictions = {}
    results: list[ModelResult] = []

    def keep(trained: Trained, measured: Measurement) -> None:
        predictions[trained.record.role, trained.record.seed] = measured.predictions
        results.append(trained.result(measured))

    tuned: list[tuple[Teacher, Trained, Measurement]] = []
    for index, seed in enumerate(config.teacher.seeds):
        steps.begin("teachers", index, f"teacher {seed}")
        teacher, trained = find_or_finetune(config, corpus, _place(directory, "teacher", seed), seed)
        measured = measure(teacher, corpus.test)
        if measured.unanswered:
            unknown = f"{measured.unanswered:,} of {numbered(len(corpus.test), 'test text')}"
            warn(f"the teacher has no answer to {unknown}: the report has no scores of it")
        else:
            keep(trained, measured)
        tuned.append((teacher, trained, measured))
        best = max(tuned, key=lambda one: one[1].fit.best["mcc"])  # the first of equals
        if config.distillation.teachers == "best":
            tuned = [best]  # the others would only take memory
        share_base_weights([teacher for teacher, _, _ in tuned])
    steps.begin("labelling", 0, "the teacher's probabilities")
    teacher = together([teacher for teacher, _, _ in tuned])
    unlabelled = unlabelled_set(config, corpus, teacher, directory / "unlabelled")
    labelled = label(config, corpus, teacher, unlabelled)

    steps.enter()
    for trained in train_students(tasks, config, corpus, labelled, steps):
        keep(trained, measure(StudentModel(Classifier.load(trained.directory)), corpus.test))

    answers = {f"{role} {seed}": given for (role, seed), given in predictions.items()} | {"linear": linear_answers}
    _save_predictions(directory / "predictions.csv", corpus, answers)
    ensemble = averaged = None
    if len(tuned) > 1:
        averaged = average_logits([measured.logits for _, _, measured in tuned])
        ensemble = measure_together(averaged, corpus.test)
    summary = Summary(
        data=DataSummary.of(corpus),
        models=tuple(results),
        teacher_seed=best[1].record.seed,
        comparisons={
            seed: mcnemar(corpus.test.labels, predictions["distilled", seed], predictions["baseline", seed])
            for seed in config.student.seeds
        },
        command=command or shlex.join(["potstill", "run", "--config", str(directory / CONFIG_FILE)]),
        config=config.model_dump(mode="json"),
        environment=read_json(directory / ENVIRONMENT_FILE),
        unlabelled=None if unlabelled is None else unlabelled.summary,
        ensemble=ensemble,
        linear=linear,
        against_linear={
            seed: mcnemar(corpus.test.labels, predictions["distilled", seed], linear_answers)
            for seed in config.student.seeds
        },
    )
    single = predictions.get(("teacher", summary.teacher_seed))
    teacher_answers = single if averaged is None else averaged.argmax(axis=1)
    write_report(summary, directory, _details(corpus, summary, directory, teacher_answers))
    return summary


def _details(corpus: Corpus, summary: Summary, directory: Path, teacher: NDArray[np.int64] | None) -> Details | None:
    """Collect what the report shows of the student to use, with the teacher's answers to the test texts."""
    if (used := summary.recommended) is None:
        return None
    student = StudentModel(Classifier.load(_place(directory, used.role, used.seed)))
    probabilities = softmax(student.logits(corpus.test), student.temperature)
    labels, answers = corpus.test.labels, predict_class(probabilities, student.threshold)
    confidences = np.take_along_axis(probabilities, answers[:, None], axis=1)[:, 0].astype(np.float64)
    surest = np.argsort(-confidences, kind="stable")
    mistakes = surest[answers[surest] != labels[surest]]
    suspicious, note = suspicious_labels(corpus)
    return Details(
        role=used.role,
        seed=used.seed,
        in_pairs=corpus.in_pairs,
        confusion=confusion(labels, answers, corpus.num_classes),
        coverage=risk_coverage(confidences, answers == labels),
        mistakes=cases(corpus.test, mistakes, corpus.label_names, probabilities, answers, teacher),
        suspicious=suspicious,
        suspicious_note=note,
        learning_curve=learning_curve(corpus),
    )


def unlabelled_set(
    config: PotstillConfig, corpus: Corpus, teacher: Teacher | None, directory: Path
) -> UnlabelledSet | None:
    """Build the unlabelled set that `config.augment` asks for, with the teacher's logits; None: it asks for none.

    Args:
        config: `data`, `augment`, `teacher` (the backbone) and `runtime` are used.
        corpus: The task.
        teacher: Labels the texts; None: they stay without logits.
        directory: Where to keep the set. An interrupted call is resumed there.

    Raises:
        PotstillError: See `build_unlabelled_set`.
    """
    if not config.augment.wanted(in_pairs=corpus.in_pairs):
        return None
    if teacher is not None:
        check_teacher(corpus, teacher)
    built = build_unlabelled_set(config, corpus, directory)
    if not len(built):
        return None
    if teacher is not None and built.teacher != teacher.key:
        built = built.labelled(teacher.logits(built.examples), teacher.key)
        built.save(directory / UNLABELLED_FILE)
    return built


def resolved(config: PotstillConfig, corpus: Corpus) -> PotstillConfig:
    """Replace the data `auto` by the data that it found, so that the saved configuration repeats this run anywhere."""
    if config.data.source != "auto":
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"source": corpus.name})})


def input_keys(teacher: Teacher, unlabelled: UnlabelledSet | None) -> dict[str, str | None]:
    """Return digests of what a student learns from beside the corpus, by name."""
    return {"teacher's weights": teacher.key, "unlabelled set": None if unlabelled is None else unlabelled.texts_key}


def _plan(config: PotstillConfig, corpus: Corpus) -> str:
    """Say what the run is going to do."""
    augment, seeds, teachers = config.augment, len(config.student.seeds), len(config.teacher.seeds)
    more = augment.most_made(in_pairs=corpus.in_pairs)
    unlabelled = [f"{more:,} more texts at most"] * (more > 0) + [f"the texts of {name}" for name in augment.files]
    steps = (
        f"train {numbered(teachers, 'teacher')} on {len(corpus.train):,} labelled texts",
        f"let the teacher label these{''.join(f', {one}' for one in unlabelled)}",
        f"train {numbered(seeds, 'student')} on labels and answers, and {numbered(seeds, 'baseline')} on labels alone",
        f"score all, and a linear model, on {numbered(len(corpus.test), 'test text')}",
    )
    return f"it will {'; '.join(steps)}"


def _place(directory: Path, role: Role, seed: int) -> Path:
    return directory / role / f"seed-{seed}"


def _steps(config: PotstillConfig, students: Sequence[StudentTask], directory: Path) -> Steps:
    """List the steps of a run, and print which models an earlier call has trained."""
    teachers = {f"teacher {seed}": _place(directory, "teacher", seed) for seed in config.teacher.seeds}
    places = teachers | {f"{task.role} {task.seed}": task.directory for task in students}
    finished = {title: TrainingRecord.find(place) is not None for title, place in places.items()}
    if any(finished.values()):
        print_line(f"finished before: {', '.join(title for title, done in finished.items() if done)}")
    done = list(finished.values())
    return Steps({"teachers": done[: len(teachers)], "labelling": [False], "students": done[len(teachers) :]})


def _save_predictions(path: Path, corpus: Corpus, answers: dict[str, NDArray[np.int64]]) -> None:
    """Write each model's answer to each text of the test split, so that its mistakes can be read."""
    names = np.array(corpus.label_names)
    columns = {model: names[given] for model, given in answers.items()}
    texts = {"text": corpus.test.texts} | ({"pair": corpus.test.pairs} if corpus.test.pairs else {})
    table = texts | {"label": names[corpus.test.labels]} | columns
    write_csv(path, [table, *zip(*table.values(), strict=True)])
