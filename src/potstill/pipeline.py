"""The steps of an experiment and the whole of it: teacher → distilled student → baseline → report."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from potstill.artifacts import new_run_directory, write_atomically, write_json
from potstill.config import PotstillConfig
from potstill.data import Corpus, load_corpus
from potstill.data.tokenised import TrainingSet
from potstill.distillation.loss import Objective
from potstill.distillation.teacher_logits import teacher_logits
from potstill.environment import describe_environment
from potstill.errors import ArtifactError, ConfigError
from potstill.evaluation import DataSummary, McNemar, ModelResult, Role, Summary, mcnemar
from potstill.models import Measurement, StudentModel, TeacherModel, TrainingRecord, measure, require_same_kind
from potstill.report import write_report
from potstill.runtime import Classifier
from potstill.student.model import Student, check_tokenizer, student_bytes
from potstill.teacher import Teacher, check_sources, count_parameters, teacher_bytes
from potstill.training.compute import describe_compute, make_fabric
from potstill.training.loop import FitResult, fit
from potstill.training.progress import console

CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True)
class Trained:
    """One model, trained and saved.

    Attributes:
        directory: Where it is.
        record: What it is and what its training took; beside it as `training.json`.
        fit: Its history and best epoch.
    """

    directory: Path
    record: TrainingRecord
    fit: FitResult

    def result(self, measured: Measurement) -> ModelResult:
        """Put together what the report tells about this model."""
        known = {name: value for name, value in vars(self.record).items() if name != "best"}
        return ModelResult(
            **known,
            sentences_per_second=measured.sentences_per_second,
            metrics=measured.metrics,
            intervals=measured.intervals,
            selection_mcc=self.fit.best["mcc"],
            best_epoch=self.fit.best["epoch"],
            epochs=len(self.fit.history),
            history=self.fit.history,
        )


def finetune(config: PotstillConfig, corpus: Corpus, directory: Path, seed: int = 0) -> tuple[Teacher, Trained]:
    """Tune the backbone on the labels: adapters, or what else `teacher.method` names.

    Args:
        config: `data`, `teacher` and `runtime` are used.
        corpus: The task.
        directory: Where to save the teacher; made if need be.
        seed: Decides head, adapters, batches and dropout.

    Returns:
        The teacher with its best epoch's weights, and how its training went.

    Raises:
        PotstillError: See `Teacher.create` and `fit`.
    """
    teacher = Teacher.create(config.teacher, config.runtime, corpus, config.data.max_tokens, seed)
    train_set, selection = map(teacher.tuning_set, (corpus.train, corpus.selection))
    if config.runtime.compile:
        teacher.classifier.compile_blocks()
    directory.mkdir(parents=True, exist_ok=True)
    fitted = fit(
        teacher.classifier,
        train_set,
        selection,
        Objective(),
        config.teacher.training,
        fabric=teacher.fabric,
        seed=seed,
        history_file=directory / HISTORY_FILE,
        save=lambda: teacher.save(directory),
        title=f"teacher {seed}",
        b_ratio=1.0 if teacher.lora is None else teacher.lora.learning_rate_ratio,
    )
    size = teacher_bytes(directory, teacher.parameters[0])
    return teacher, _finish("teacher", seed, directory, fitted, teacher.parameters, size)


def distill(config: PotstillConfig, corpus: Corpus, teacher: Teacher, directory: Path, seed: int = 0) -> Trained:
    """Train a student on the labels and the teacher's softened judgement.

    Args:
        config: `data`, `student`, `distillation` and `runtime` are used.
        corpus: The task.
        teacher: Who judges; its classes must be the corpus's.
        directory: Where to save the student; made if need be.
        seed: Decides weights, batches and dropout.

    Raises:
        ArtifactError: The teacher knows other classes, or judges pairs of texts where the corpus has single ones.
    """
    if not corpus.has_classes(teacher.manifest.label_names):
        raise ArtifactError(
            f"expected a teacher of the classes {list(corpus.label_names)}, found one of "
            f"{list(teacher.manifest.label_names)}\n  what to do: tune a teacher on this data first"
        )
    require_same_kind(corpus.train, reads_pairs=teacher.manifest.pairs)
    student = _new_student(config, corpus, teacher.manifest.tokenizer, seed)
    objective = Objective(config.distillation.alpha, config.distillation.temperature)
    parts = (corpus.train, corpus.selection)
    judged = [teacher_logits(teacher, part) if objective.needs_teacher else None for part in parts]
    train_set, selection = map(student.training_set, parts, judged)
    return _fit_student(config, student, train_set, selection, objective, "distilled", directory, seed)


def train(config: PotstillConfig, corpus: Corpus, directory: Path, seed: int = 0) -> Trained:
    """Train the same student from the labels alone: the baseline. Arguments as for `distill`."""
    student = _new_student(config, corpus, config.teacher.tokenizer or config.teacher.backbone, seed)
    train_set, selection = map(student.training_set, (corpus.train, corpus.selection))
    return _fit_student(config, student, train_set, selection, Objective(), "baseline", directory, seed)


def run(
    config: PotstillConfig, out: Path | None = None, *, name: str | None = None, command: str = ""
) -> tuple[Summary, Path]:
    """Do the whole experiment into a new run directory: config, environment, models, histories, plots, report.

    Args:
        config: All settings.
        out: The run directory; none: `runs/NAME-DATE-TIME`.
        name: What to call it; none: the data's name.
        command: Command line that repeats the run, for the report.

    Returns:
        Everything that was found out, as in `summary.json`, and the run directory.

    Raises:
        PotstillError: Data, backbone or settings can't be used; nothing is trained then.
    """
    corpus = load_corpus(config.data)
    config = _resolved(config, corpus)
    check_sources(config.teacher)
    check_tokenizer(config.student)
    directory = new_run_directory(out, name or corpus.name)
    environment = describe_environment() | describe_compute(config.runtime)
    config.save(directory / CONFIG_FILE)
    write_json(directory / "environment.json", environment)
    console.print(f"{corpus.name} ({corpus.source}) → {directory}", markup=False, highlight=False, soft_wrap=True)

    answers: dict[tuple[Role, int], NDArray[np.int64]] = {}
    results: list[ModelResult] = []

    def keep(trained: Trained, measured: Measurement) -> None:
        answers[trained.record.role, trained.record.seed] = measured.predictions
        results.append(trained.result(measured))

    best: tuple[Teacher, Trained] | None = None
    for seed in config.teacher.seeds:
        teacher, trained = finetune(config, corpus, directory / "teacher" / f"seed-{seed}", seed)
        keep(trained, measure(TeacherModel(teacher), corpus.evaluation))
        if best is None or trained.fit.best["mcc"] > best[1].fit.best["mcc"]:
            best = teacher, trained
    if best is None:
        raise ConfigError(["teacher.seeds: expected at least one"])
    teacher, chosen = best
    for seed in config.student.seeds:
        pair = (
            distill(config, corpus, teacher, directory / "distilled" / f"seed-{seed}", seed),
            train(config, corpus, directory / "baseline" / f"seed-{seed}", seed),
        )
        for trained in pair:
            keep(trained, measure(StudentModel(Classifier.load(trained.directory)), corpus.evaluation))

    _save_predictions(directory / "predictions.csv", corpus, answers)
    summary = Summary(
        data=DataSummary.of(corpus),
        models=tuple(results),
        teacher_seed=chosen.record.seed,
        comparisons=dict(_comparisons(corpus, config.student.seeds, answers)),
        command=command or shlex.join(["potstill", "run", "--config", str(directory / CONFIG_FILE)]),
        config=config.model_dump(mode="json"),
        environment=environment,
    )
    write_report(summary, directory)
    return summary, directory


def _resolved(config: PotstillConfig, corpus: Corpus) -> PotstillConfig:
    """Say which data `auto` came down to, so that the saved configuration repeats this run on any machine."""
    if config.data.source != "auto":
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"source": corpus.name})})


def _new_student(config: PotstillConfig, corpus: Corpus, teacher_tokenizer: str, seed: int) -> Student:
    return Student.create(config.student, corpus, config.data.max_tokens, teacher_tokenizer, seed)


def _fit_student(
    config: PotstillConfig,
    student: Student,
    train_set: TrainingSet,
    selection: TrainingSet,
    objective: Objective,
    role: Role,
    directory: Path,
    seed: int,
) -> Trained:
    """Fit a student; distilled and baseline differ in `objective` and in nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    fitted = fit(
        student.network,
        train_set,
        selection,
        objective,
        config.student.training,
        fabric=make_fabric(config.runtime, large=False),
        seed=seed,
        history_file=directory / HISTORY_FILE,
        save=lambda: student.save(directory),
        title=f"{role} {seed}",
    )
    student.prove(directory)
    size = student_bytes(directory)
    return _finish(role, seed, directory, fitted, count_parameters(student.network), size)


def _finish(
    role: Role, seed: int, directory: Path, fitted: FitResult, parameters: tuple[int, int], size: int
) -> Trained:
    """Write `training.json`, for whoever meets the model without its run."""
    total, trainable = parameters
    record = TrainingRecord(
        role=role,
        seed=seed,
        parameters=total,
        trainable_parameters=trainable,
        bytes_on_disk=size,
        train_seconds=fitted.seconds,
        best=fitted.best,
    )
    record.save(directory)
    return Trained(directory, record, fitted)


def _comparisons(
    corpus: Corpus, seeds: Sequence[int], answers: dict[tuple[Role, int], NDArray[np.int64]]
) -> Iterator[tuple[int, McNemar]]:
    for seed in seeds:
        yield seed, mcnemar(corpus.evaluation.labels, answers["distilled", seed], answers["baseline", seed])


def _save_predictions(path: Path, corpus: Corpus, answers: dict[tuple[Role, int], NDArray[np.int64]]) -> None:
    """Write each model's answer to each text of the evaluation split, for a reader who wants to see mistakes."""
    names = np.array(corpus.label_names)
    columns = {f"{role} {seed}": names[predictions] for (role, seed), predictions in answers.items()}
    texts = {"text": corpus.evaluation.texts} | ({"pair": corpus.evaluation.pairs} if corpus.evaluation.pairs else {})
    table = texts | {"label": names[corpus.evaluation.labels]} | columns

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))

    write_atomically(path, write)
