"""The steps of an experiment and the whole of it: teacher → distilled student → baseline → report."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from potstill.artifacts import digest, new_run_directory, write_atomically, write_json
from potstill.config import PotstillConfig, PretrainingConfig, TrainingConfig
from potstill.data import Corpus, load_corpus
from potstill.data.tokenised import TrainingSet
from potstill.distillation.hidden import Matching, MatchingObjective, with_hidden_states
from potstill.distillation.loss import Objective, balanced_weights
from potstill.distillation.teacher_logits import judgement
from potstill.environment import describe_environment
from potstill.errors import ArtifactError, ConfigError
from potstill.evaluation import DataSummary, McNemar, ModelResult, Role, Summary, mcnemar
from potstill.lora.counting import count_parameters
from potstill.models import Measurement, StudentModel, TeacherModel, TrainingRecord, measure, require_same_kind
from potstill.report import write_report
from potstill.runtime import Classifier
from potstill.student.model import Student, check_tokenizer, student_bytes
from potstill.student.pretraining import pretrain
from potstill.teacher import Teacher, check_sources, teacher_bytes
from potstill.training.compute import describe_compute, make_fabric
from potstill.training.loop import FitResult, Record, fit, predict_logits
from potstill.training.progress import console
from potstill.transfer.build import build_transfer_set, check_transfer
from potstill.transfer.sets import TRANSFER_FILE, TransferSet

CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.jsonl"
PRETRAINING_FILE = "pretraining.jsonl"


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
            calibration=measured.calibration,
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
    fitted = fit(
        teacher.classifier,
        train_set,
        selection,
        Objective(class_weights=_class_weights(config.teacher.training, corpus)),
        config.teacher.training,
        fabric=teacher.fabric,
        seed=seed,
        history_file=directory / HISTORY_FILE,
        save=lambda: teacher.save(directory),
        title=f"teacher {seed}",
        b_ratio=teacher.b_ratio,
    )
    size = teacher_bytes(directory, teacher.parameters[0])
    return teacher, _finish("teacher", seed, directory, fitted, teacher.parameters, size)


def distill(
    config: PotstillConfig,
    corpus: Corpus,
    teacher: Teacher | Sequence[Teacher],
    directory: Path,
    seed: int = 0,
    *,
    transfer: TransferSet | None = None,
    on_student: Callable[[Student], object] | None = None,
    on_epoch: Callable[[Record], object] | None = None,
) -> Trained:
    """Train a student on the labels and the teacher's softened judgement.

    Args:
        config: `data`, `student`, `distillation` and `runtime` are used.
        corpus: The task.
        teacher: Who judges; its classes must be the corpus's. Several judge together, their probabilities averaged.
        directory: Where to save the student; made if need be.
        seed: Decides weights, batches and dropout.
        transfer: More texts, without labels, for the student to learn the teacher's judgement of.
        on_student: Gets the student before anything is trained; what it raises ends all.
        on_epoch: See `fit`.

    Raises:
        ArtifactError: The teacher knows other classes, or judges pairs of texts where the corpus has single ones.
        ConfigError: There are transfer texts, but no teacher is to be learnt from; or hidden states of pairs of texts
            are to be matched.
    """
    teachers = (teacher,) if isinstance(teacher, Teacher) else tuple(teacher)
    for one in teachers:
        if not corpus.has_classes(one.manifest.label_names):
            raise ArtifactError(
                f"expected a teacher of the classes {list(corpus.label_names)}, found one of "
                f"{list(one.manifest.label_names)}\n  what to do: tune a teacher on this data first"
            )
        require_same_kind(corpus.train, reads_pairs=one.manifest.pairs)
    settings = config.distillation
    objective = Objective(
        settings.alpha, settings.temperature, settings.objective, _class_weights(config.student.training, corpus)
    )
    _check_distillation(config, corpus, with_transfer=transfer is not None)
    texts, weights = corpus.train, None
    if transfer is not None:
        require_same_kind(transfer.examples, reads_pairs=corpus.in_pairs)
        texts = corpus.train.joined(transfer.examples)
        weights = torch.cat([torch.ones(len(corpus.train)), transfer.weights(settings.source_weights)])
    student = Student.create(
        config.student,
        corpus,
        config.data.max_tokens,
        teachers[0].manifest.tokenizer,
        seed,
        more_texts=() if transfer is None else transfer.examples.all_texts,
        backbone=teachers[0].manifest.backbone,
    )
    if on_student is not None:
        on_student(student)
    train_logits = selection_logits = None
    if objective.needs_teacher:
        train_logits, selection_logits = judgement(teachers, corpus.train), judgement(teachers, corpus.selection)
        if transfer is not None:
            train_logits = torch.cat([train_logits, _transfer_logits(teachers, transfer)])
    train_set = student.training_set(texts, train_logits)
    selection = student.training_set(corpus.selection, selection_logits)
    if weights is not None:
        train_set = replace(train_set, weights=weights / weights.mean())
    pretrain(
        student.network,
        train_set,
        selection,
        config.student.pretraining,
        fabric=make_fabric(config.runtime),
        seed=seed,
        history_file=directory / PRETRAINING_FILE,
        title=f"language modelling {seed}",
    )
    if settings.hidden_weight:
        train_set = with_hidden_states(train_set, student, teachers[0], texts)
    return _fit_student(config, student, train_set, selection, objective, "distilled", directory, seed, on_epoch)


def train(config: PotstillConfig, corpus: Corpus, directory: Path, seed: int = 0) -> Trained:
    """Train the same student from the labels alone: the baseline. Arguments as for `distill`.

    Nothing of a teacher goes into it: no embeddings, and no language modelling first.
    """
    alone = {"embedding_init": "random", "pretraining": PretrainingConfig()}
    config = config.model_copy(update={"student": config.student.model_copy(update=alone)})
    tokenizer = config.teacher.tokenizer or config.teacher.backbone
    student = Student.create(config.student, corpus, config.data.max_tokens, tokenizer, seed)
    train_set, selection = map(student.training_set, (corpus.train, corpus.selection))
    objective = Objective(class_weights=_class_weights(config.student.training, corpus))
    return _fit_student(config, student, train_set, selection, objective, "baseline", directory, seed)


def transfer_set(
    config: PotstillConfig, corpus: Corpus, teacher: Teacher | Sequence[Teacher] | None, directory: Path
) -> TransferSet | None:
    """Build the transfer set that `config` asks for, and have it judged; None where it asks for none.

    Args:
        config: `data`, `transfer`, `teacher` (the backbone) and `runtime` are used.
        corpus: The task.
        teacher: Who judges; None: nobody yet.
        directory: Where to keep it. What a call that was interrupted left there is gone on with.

    Raises:
        PotstillError: See `build_transfer_set`.
    """
    if not config.transfer.wanted:
        return None
    built = build_transfer_set(config, corpus, directory)
    if teacher is None:
        return built
    teachers = (teacher,) if isinstance(teacher, Teacher) else tuple(teacher)
    if built.teacher != _joint_key(teachers):
        built = built.judged(judgement(teachers, built.examples), _joint_key(teachers))
        built.save(directory / TRANSFER_FILE)
    return built


def _transfer_logits(teachers: Sequence[Teacher], transfer: TransferSet) -> Tensor:
    """Return what the teachers say of a transfer set, (texts, classes): as it stands there where it is theirs."""
    if transfer.logits is not None and transfer.teacher == _joint_key(teachers):
        return torch.from_numpy(transfer.logits)
    return judgement(teachers, transfer.examples)


def _joint_key(teachers: Sequence[Teacher]) -> str:
    return digest([teacher.key() for teacher in teachers])


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
    config = resolved(config, corpus)
    check_sources(config.teacher)
    check_tokenizer(config.student)
    check_transfer(config, corpus)
    _check_distillation(config, corpus, with_transfer=config.transfer.wanted)
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

    tuned: list[tuple[Teacher, Trained]] = []
    for seed in config.teacher.seeds:
        teacher, trained = finetune(config, corpus, directory / "teacher" / f"seed-{seed}", seed)
        keep(trained, measure(TeacherModel(teacher), corpus.evaluation))
        tuned.append((teacher, trained))
    best = max(tuned, key=lambda pair: pair[1].fit.best["mcc"])  # the first of equals
    teachers = [teacher for teacher, _ in (tuned if config.distillation.teachers == "average" else [best])]
    transfer = transfer_set(config, corpus, teachers, directory / "transfer")
    for seed in config.student.seeds:
        target = directory / "distilled" / f"seed-{seed}"
        pair = (
            distill(config, corpus, teachers, target, seed, transfer=transfer),
            train(config, corpus, directory / "baseline" / f"seed-{seed}", seed),
        )
        for trained in pair:
            keep(trained, measure(StudentModel(Classifier.load(trained.directory)), corpus.evaluation))

    _save_predictions(directory / "predictions.csv", corpus, answers)
    summary = Summary(
        data=DataSummary.of(corpus),
        models=tuple(results),
        teacher_seed=best[1].record.seed,
        comparisons=dict(_comparisons(corpus, config.student.seeds, answers)),
        command=command or shlex.join(["potstill", "run", "--config", str(directory / CONFIG_FILE)]),
        config=config.model_dump(mode="json"),
        environment=environment,
        transfer=None if transfer is None else transfer.summary,
    )
    write_report(summary, directory)
    return summary, directory


def resolved(config: PotstillConfig, corpus: Corpus) -> PotstillConfig:
    """Say which data `auto` came down to, so that the saved configuration repeats this run on any machine."""
    if config.data.source != "auto":
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"source": corpus.name})})


def _check_distillation(config: PotstillConfig, corpus: Corpus, *, with_transfer: bool) -> None:
    """Refuse settings that contradict each other or the data."""
    problems = []
    if with_transfer and config.distillation.alpha == 1.0:
        problems.append("distillation.alpha: 1 looks at no teacher, and a transfer set has no labels; lower it")
    if config.distillation.hidden_weight and corpus.in_pairs:
        problems.append("distillation.hidden_weight: single texts' words can be matched, pairs' can't; leave it at 0")
    if problems:
        raise ConfigError(problems)


def _matching(
    student: Student, train_set: TrainingSet, objective: Objective, weight: float
) -> tuple[nn.Module, Objective | MatchingObjective]:
    """Return what is fitted and to what: with the projection to the teacher's hidden states where there are any."""
    if train_set.hidden is None:
        return student.network, objective
    model = Matching(student.network, train_set.hidden.values.shape[1])
    return model, MatchingObjective(objective, weight, model.projection)


def _class_weights(config: TrainingConfig, corpus: Corpus) -> Tensor | None:
    if config.class_weights == "none":
        return None
    return balanced_weights(torch.from_numpy(corpus.train.labels), corpus.num_classes)


def _fit_student(
    config: PotstillConfig,
    student: Student,
    train_set: TrainingSet,
    selection: TrainingSet,
    objective: Objective,
    role: Role,
    directory: Path,
    seed: int,
    on_epoch: Callable[[Record], object] | None = None,
) -> Trained:
    """Fit a student and calibrate it; distilled and baseline differ in `objective` and in nothing else."""
    fabric = make_fabric(config.runtime)
    model, loss = _matching(student, train_set, objective, config.distillation.hidden_weight)
    fitted = fit(
        model,
        train_set,
        selection,
        loss,
        config.student.training,
        fabric=fabric,
        seed=seed,
        history_file=directory / HISTORY_FILE,
        save=lambda: student.save(directory),
        title=f"{role} {seed}",
        on_epoch=on_epoch,
    )
    exact = make_fabric(config.runtime.model_copy(update={"precision": "32-true"}))  # as the runtime will compute
    logits = predict_logits(student.network, selection, exact).numpy()  # of the best epoch
    tuned = config.student.threshold == "tuned"
    student.calibrated(logits, selection.labels.numpy(), tune_threshold=tuned).save(directory)
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
