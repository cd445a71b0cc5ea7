"""The whole experiment: teachers, unlabelled text, distilled students, their baselines, the report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from potstill.augment.build import build_unlabelled_set, check_augment, files_key
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import EndpointConfig, PotstillConfig, TransformerConfig
from potstill.console import Steps, print_line, roughly, warn
from potstill.data import Corpus, load_corpus
from potstill.data.encoded import correct
from potstill.errors import ConfigError
from potstill.evaluation import ROLES, DataSummary, ModelResult, Role, Summary, TimeLimit, mcnemar
from potstill.evaluation.details import Details, cases, confusion, risk_coverage
from potstill.evaluation.measure import Measurement, measure, measure_together
from potstill.experiment.labelled import check_distillation, check_teacher, label, label_corpus, label_in_time
from potstill.experiment.linear import learning_curve, measure_linear_svm, suspicious_cases
from potstill.experiment.plan import Budget, Estimate, Plan, described, plan_within, resumed
from potstill.experiment.probe import measure_speed
from potstill.experiment.record import Trained, TrainingRecord
from potstill.experiment.run_directory import ENVIRONMENT_FILE, RunSpec, run_directory, with_kept_data
from potstill.experiment.saved import StudentModel
from potstill.experiment.stages import find_or_finetune
from potstill.experiment.students import StudentTask, roles_of, train_students
from potstill.predict import Classifier
from potstill.predict.decision import confidence, named, predict_class, probabilities_of
from potstill.predict.directory import CONFIG_FILE, UNLABELLED_FILE
from potstill.predict.output import cell
from potstill.predict.wording import numbered
from potstill.report import is_reported, read_summary, write_report
from potstill.report.tables import duration
from potstill.store.atomic import read_json, write_csv
from potstill.store.checksums import CHECKSUMS_FILE
from potstill.student.embeddings import check_embeddings
from potstill.teacher.base import Teacher
from potstill.teacher.ensemble import average_logits, together
from potstill.teacher.registry import teacher_class
from potstill.teacher.transformer import share_base_weights
from potstill.training.deadline import PLANNED_STEPS, until
from potstill.training.trackers import check_trackers

_MOST_UNANSWERED: Final = 0.05
"""Share of the test texts that a scored teacher may leave without an answer: each counts as its usual answer."""
_LABELLING: Final = "the teacher's probabilities"
"""The step between teachers and students."""

_LIMITS: Final = ("student.max_size", "student.max_latency")
"""Settings that only choose among trained students."""

Predictions = dict[tuple[Role, int], NDArray[np.int64]]


def run(
    config: PotstillConfig,
    out: Path | None = None,
    *,
    name: str | None = None,
    command: str = "",
    restart: bool = False,
    time_limit: float | None = None,
    started: float | None = None,
    text_alone: bool = False,
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
        time_limit: Seconds that the run may take: what does not fit is left out. Time before an interruption counts
            too. None: there is no limit.
        started: When that time began, as `time.time` counts; None: now.
        text_alone: Write the report without plots and page.

    Returns:
        The results, as in `summary.json`, and the run directory.

    Raises:
        PotstillError: Data, backbone or settings can't be used; nothing is trained then.
    """
    started = time.time() if started is None else started
    if time_limit is not None and time_limit <= 0:
        raise ConfigError([f"time_limit: expected seconds above 0, found {time_limit:g}"])
    corpus = load_corpus(config.data, with_labels=False)
    check_distillation(config, with_unlabelled=config.augment.wanted(in_pairs=corpus.in_pairs))
    teacher_class(config.teacher.kind).check(config.teacher)  # may unpack the pretrained model, which takes long
    check_augment(config, corpus)
    check_embeddings(config)
    check_trackers(config.runtime.trackers)
    inputs = {"texts": corpus.key(), "unlabelled files": files_key(config)}
    if time_limit is not None:
        inputs["time limit"] = f"{time_limit:g} s"
        if isinstance(config.teacher, EndpointConfig):
            warn("the time limit leaves out of account how long the server takes, which is not known before")

    def is_finished(directory: Path) -> bool:
        return is_reported(directory) and _limits(read_summary(directory).config) == _limits(config.model_dump())

    spec = RunSpec("run", name or corpus.name, config, inputs, is_finished, free=("search", *_LIMITS))
    with run_directory(spec, out, restart=restart) as directory:
        if is_finished(directory):
            return read_summary(directory), directory
        if is_reported(directory):
            print_line("all models are trained: with other limits, only the student to use is chosen again")
            (directory / CHECKSUMS_FILE).unlink()  # the report is unfinished from here on
        config = with_kept_data(config, directory)
        print_line(f"{corpus.name} ({corpus.source}) → {directory}")
        budget = Budget(directory, time_limit, started)
        with budget.counted():
            if corpus.labels_by_teacher:
                corpus = label_corpus(config, corpus, _place(directory, "teacher", config.teacher.seeds[0]))
            summary, details = _experiment(config, corpus, directory, command, budget)
        write_report(summary, directory, details, text_alone=text_alone)
        return summary, directory


def _limits(settings: dict[str, Any]) -> list[float | None]:
    """Return the limits that the student to use has to keep."""
    return [settings["student"].get(name.partition(".")[2]) for name in _LIMITS]


def _experiment(
    config: PotstillConfig, corpus: Corpus, directory: Path, command: str, budget: Budget
) -> tuple[Summary, Details | None]:
    print_line("fitting a linear model and measuring this machine's speed, to plan the run")
    linear, linear_answers = measure_linear_svm(corpus)  # takes seconds; what it can't read is found at once
    plan = _planned(config, corpus, budget, linear.train_seconds)
    config, estimate = plan.config, plan.estimate
    tasks = _tasks(plan, directory)
    steps = _steps(plan, tasks, directory)
    predictions: Predictions = {}
    results: list[ModelResult] = []

    def keep(trained: Trained, measured: Measurement) -> None:
        predictions[trained.record.role, trained.record.seed] = measured.predictions
        results.append(trained.result(measured))

    tuned: list[tuple[Teacher, Trained, Measurement]] = []
    seeds = config.teacher.seeds if plan.with_teacher else ()
    for index, seed in enumerate(seeds):
        steps.begin(f"teacher {seed}")
        rest = (len(seeds) - index) * (estimate.tuning + estimate.scoring) + estimate.after_teachers
        with until(budget.ends(estimate.tuning, rest)):
            teacher, trained = find_or_finetune(config, corpus, _place(directory, "teacher", seed), seed)
        measured = measure(teacher, corpus.test)
        if _has_scores(corpus, measured):
            keep(trained, replace(measured, texts_per_second=0.0) if teacher.keeps_answers else measured)
        tuned.append((teacher, trained, measured))
        best = max(tuned, key=lambda one: one[1].fit.best["mcc"])  # the first of equals
        if config.distillation.teachers == "best":
            tuned = [best]  # the others would only take memory
        share_base_weights([teacher for teacher, _, _ in tuned])
    labelled = unlabelled = None
    if tuned:
        steps.begin(_LABELLING)
        teacher = together([teacher for teacher, _, _ in tuned])
        with until(budget.ends(estimate.sampling, estimate.after_teachers)):
            unlabelled_set(config, corpus, None, directory / "unlabelled")
        with until(budget.ends(estimate.labelling, estimate.after_teachers - estimate.sampling)):
            labelled = label(config, corpus, teacher)
            unlabelled = unlabelled_set(config, corpus, teacher, directory / "unlabelled")
            if unlabelled is not None:
                unlabelled = unlabelled.answered()
                labelled = labelled.with_unlabelled(unlabelled, teacher)

    steps.enter()
    for trained in train_students(_limited(tasks, estimate, budget), config, corpus, labelled, steps):
        keep(trained, measure(StudentModel(Classifier.load(trained.directory)), corpus.test))

    answers = {f"{role} {seed}": given for (role, seed), given in predictions.items()} | {"linear": linear_answers}
    _save_predictions(directory / "predictions.csv", corpus, answers)
    ensemble = None
    teacher_answers = predictions.get(("teacher", best[1].record.seed)) if tuned else None
    if len(tuned) > 1:
        averaged = average_logits([measured.logits for _, _, measured in tuned], teacher.threshold)
        ensemble, teacher_answers = measure_together(averaged, corpus.test, teacher.threshold)
    labels = corpus.test.labels
    of_role = {name: {seed: one for (role, seed), one in predictions.items() if role == name} for name in ROLES}
    taught, untaught = of_role["distilled"], of_role["baseline"]
    summary = Summary(
        data=DataSummary.of(corpus),
        models=tuple(results),
        teacher_seed=best[1].record.seed if tuned else None,
        comparisons={seed: mcnemar(labels, one, untaught[seed]) for seed, one in taught.items() if seed in untaught},
        command=command or shlex.join(["potstill", "run", "--config", str(directory / CONFIG_FILE)]),
        config=config.model_dump(mode="json"),
        environment=read_json(directory / ENVIRONMENT_FILE),
        unlabelled=None if unlabelled is None else unlabelled.summary,
        ensemble=ensemble,
        linear=linear,
    )
    used = {} if (role := summary.recommended_role) is None else of_role[role]
    tests = {seed: mcnemar(labels, given, linear_answers) for seed, given in used.items()}
    summary = replace(summary, against_linear=tests)
    details = _details(corpus, summary, directory, teacher_answers)
    if budget.limit is not None:
        late = [f"no {task.role} student {task.seed}" for task in tasks if (task.role, task.seed) not in predictions]
        changes = (
            *plan.changes,
            *_cut_short(summary, 0 if labelled is None else labelled.unanswered),
            *late,
        )
        summary = replace(summary, time_limit=TimeLimit(budget.limit, budget.used, changes))
    return summary, details


def _has_scores(corpus: Corpus, teacher: Measurement) -> bool:
    """Say whether scores of the teacher mean something; warn where it is for want of answers that they don't."""
    if corpus.labels_by_teacher:
        return False  # it would be right everywhere
    if teacher.unanswered:
        unknown = f"{teacher.unanswered:,} of {numbered(len(corpus.test), 'test text')}"
        scored = teacher.unanswered <= _MOST_UNANSWERED * len(corpus.test)
        how = "there, its usual answer is scored" if scored else "the report has no scores of it"
        warn(f"the teacher has no answer to {unknown}: {how}")
        return scored
    return True


def _cut_short(summary: Summary, unknown: int) -> Iterator[str]:
    """Say what was begun and not finished for want of time; of `unknown` training texts the teacher was not asked."""
    for model in summary.models:
        if model.history and (planned := model.history[-1].get(PLANNED_STEPS)):
            yield f"{model.history[-1]['steps']:,} instead of {planned:,} steps of {model.role} {model.seed}"
    if unknown:
        yield f"no answer of the teacher to {numbered(unknown, 'training text')}"
    if count := (summary.unlabelled or {}).get("left out: time limit"):
        yield f"{numbered(count, 'unlabelled text')} fewer"


def _planned(config: PotstillConfig, corpus: Corpus, budget: Budget, linear_seconds: float) -> Plan:
    """Plan what the run is going to do, within its time limit if there is one; say it, and how long that takes."""
    speed = replace(measure_speed(config, corpus), linear=linear_seconds)
    plan = whole = Plan(config, Estimate.of(config, corpus, speed))
    if budget.limit is not None:
        left = budget.limit - budget.used
        if budget.kept is not None:
            plan = resumed(config, corpus, speed, left, budget.kept)
        else:
            plan = plan_within(config, corpus, speed, left)
            if not plan.with_teacher:  # another program may have kept the processor busy for those seconds
                speed = replace(measure_speed(config, corpus), linear=linear_seconds)
                plan = plan_within(config, corpus, speed, budget.limit - budget.used)
        budget.keep(plan)
    print_line(described(plan, corpus))
    beside = "" if isinstance(config.teacher, TransformerConfig) else " beside the teacher"
    print_line(f"in all, that takes about {roughly(plan.estimate.total)} on this machine{beside}")
    if budget.limit is not None and plan.changes:
        changes = "; ".join(plan.changes)
        print_line(
            f"to keep to {duration(budget.limit)} (all would take about {roughly(whole.estimate.total)}): {changes}"
        )
    return plan


def _details(corpus: Corpus, summary: Summary, directory: Path, teacher: NDArray[np.int64] | None) -> Details | None:
    """Collect what the report shows of the student to use, with the teacher's answers to the test texts."""
    if (used := summary.recommended) is None:
        return None
    student = StudentModel(Classifier.load(_place(directory, used.role, used.seed)))
    probabilities = probabilities_of(student.logits(corpus.test), student.temperature, student.threshold)
    labels, answers = corpus.test.labels, predict_class(probabilities, student.threshold)
    confidences, right = confidence(probabilities, answers), correct(labels, answers)
    surest = np.argsort(-confidences, kind="stable")
    mistakes = surest[~right[surest]]
    suspicious, note = suspicious_cases(corpus)
    return Details(
        role=used.role,
        seed=used.seed,
        in_pairs=corpus.in_pairs,
        confusion=() if corpus.is_multi_label else confusion(labels, answers, corpus.num_classes),
        coverage=risk_coverage(confidences, right),
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
        asked, logits = label_in_time(teacher, built.examples)
        if len(asked) < len(built):
            built = built.take(asked, "time limit")
        built = built.labelled(logits, teacher.key)
        built.save(directory / UNLABELLED_FILE)
    return built


def input_keys(teacher: Teacher, unlabelled: UnlabelledSet | None) -> dict[str, str | None]:
    """Return digests of what a student learns from beside the corpus, by name."""
    return {"teacher's weights": teacher.key, "unlabelled set": None if unlabelled is None else unlabelled.texts_key}


def _place(directory: Path, role: Role, seed: int) -> Path:
    return directory / role / f"seed-{seed}"


def _tasks(plan: Plan, directory: Path) -> list[StudentTask]:
    """List the students to train; a limited time may leave out all but those of the first seed."""
    config = plan.config
    epochs: dict[Role, int | None] = {"baseline": config.baseline.epochs}
    needed = max(plan.estimate.distilled, plan.estimate.baseline)  # for both: a seed's two are compared
    return [
        StudentTask(role, seed, _place(directory, role, seed), epochs.get(role), seconds=needed if number else 0.0)
        for number, seed in enumerate(config.student.seeds)
        for role in roles_of(config, with_teacher=plan.with_teacher)
    ]


def _limited(tasks: Sequence[StudentTask], estimate: Estimate, budget: Budget) -> list[StudentTask]:
    """Say by when each student's training has to end: where one follows the other, the first leaves the second time."""
    rest = estimate.students + estimate.finish
    limited = [replace(task, ends=budget.ends(estimate.students, rest)) for task in tasks]
    if limited[0].role == "distilled" and estimate.workers == 1:
        limited[0] = replace(limited[0], ends=budget.ends(estimate.students - estimate.baseline, rest))
    return limited


def _steps(plan: Plan, students: Sequence[StudentTask], directory: Path) -> Steps:
    """List the steps of a run, and print which models an earlier call has trained."""
    estimate, seeds = plan.estimate, plan.config.teacher.seeds if plan.with_teacher else ()
    teachers = {f"teacher {seed}": _place(directory, "teacher", seed) for seed in seeds}
    places = teachers | {task.title: task.directory for task in students}
    finished = [title for title, place in places.items() if TrainingRecord.find(place) is not None]
    if finished:
        print_line(f"finished before: {', '.join(finished)}")
    seconds: dict[str, float | None] = dict.fromkeys(teachers, estimate.tuning + estimate.scoring)
    if teachers:
        seconds[_LABELLING] = estimate.sampling + estimate.labelling
    apart = len(seconds)
    seconds |= dict.fromkeys((task.title for task in students), estimate.students / len(students))
    return Steps(seconds | dict.fromkeys(finished), apart)


def _save_predictions(path: Path, corpus: Corpus, answers: dict[str, NDArray[np.int64]]) -> None:
    """Write each model's answer to each text of the test split, so that its mistakes can be read."""
    texts = {"text": corpus.test.texts} | ({"pair": corpus.test.pairs} if corpus.test.pairs else {})
    columns = {"label": corpus.test.labels} | answers
    table = texts | {
        column: [cell(one) for one in named(given, corpus.label_names)] for column, given in columns.items()
    }
    write_csv(path, [table, *zip(*table.values(), strict=True)])
