"""The stages of an experiment: tune a teacher, distil a student, train its baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig
from potstill.data import Corpus
from potstill.data.tokenised import TrainingSet, warn_of_cut
from potstill.distillation import CrossEntropy, Distillation, class_weights
from potstill.errors import ArtifactError, TrainingError
from potstill.evaluation import Role
from potstill.evaluation.measure import measure
from potstill.experiment.labelled import DistillationSet, check_distillation, label
from potstill.experiment.record import Trained, TrainingRecord
from potstill.lora.counting import count_parameters
from potstill.predict.directory import is_teacher
from potstill.student.student import Student, round_tables, student_bytes
from potstill.task import task_of
from potstill.teacher.base import Teacher
from potstill.teacher.ensemble import together
from potstill.teacher.registry import teacher_class
from potstill.training.base import Callback, FitContext, FitResult, Splits
from potstill.training.callbacks import standard_callbacks
from potstill.training.compute import make_fabric
from potstill.training.deadline import half_of_the_time
from potstill.training.fit import fit
from potstill.training.inference import predict_logits


def finetune(config: PotstillConfig, corpus: Corpus, directory: Path, seed: int = 0) -> tuple[Teacher, Trained]:
    """Tune a teacher of the kind that `teacher.kind` names, or open one that needs no training.

    Args:
        config: `data`, `teacher` and `runtime` are used.
        corpus: The task.
        directory: Where to save the teacher; made if need be. An interrupted training of the same settings is resumed
            there.
        seed: Decides head, adapters, batches and dropout.

    Returns:
        The teacher with the weights of the epoch that is kept, and how its training went.

    Raises:
        PotstillError: Its settings or sources can't be used, or its training broke down, or has ended in `directory`.
    """
    _require_unfinished(directory)
    teacher, fitted = teacher_class(config.teacher.kind).obtain(config, corpus, directory, seed)
    if fitted is None:  # no training: the validation scores are those of a trained one's best epoch
        metrics = measure(teacher, corpus.validation).metrics
        fitted = FitResult((), {"epoch": 0, **metrics.of_answers}, 0.0)
    total, trainable = teacher.parameters
    record = TrainingRecord(
        role="teacher",
        seed=seed,
        description=teacher.describe(),
        parameters=total,
        trainable_parameters=trainable,
        bytes_on_disk=teacher.bytes_on_disk(directory),
        train_seconds=fitted.seconds,
        best=fitted.best,
    )
    return teacher, Trained.finish(directory, record, fitted)


def find_or_finetune(config: PotstillConfig, corpus: Corpus, directory: Path, seed: int) -> tuple[Teacher, Trained]:
    """Open the teacher that an earlier call has finished in `directory`, else `finetune` it."""
    if (finished := Trained.find(directory)) is None:
        return finetune(config, corpus, directory, seed)
    kind = teacher_class(config.teacher.kind)
    if is_teacher(directory):
        return kind.load(directory, config.runtime), finished
    return kind.obtain(config, corpus, directory, seed)[0], finished  # of a kind that is neither trained nor saved


def distill(
    config: PotstillConfig,
    corpus: Corpus,
    teacher: Teacher | DistillationSet,
    directory: Path,
    seed: int = 0,
    *,
    unlabelled: UnlabelledSet | None = None,
    role: Role = "distilled",
    callbacks: Sequence[Callback] = (),
) -> Trained:
    """Train a student on the labels and the teacher's softened probabilities.

    Args:
        config: `data`, `student`, `distillation` and `runtime` are used.
        corpus: The task; its test split is not used.
        teacher: A teacher, or texts that one has labelled.
        directory: Where to save the student; made if need be. An interrupted training of the same settings is resumed
            there.
        seed: Decides weights, batches and dropout.
        unlabelled: More texts, without labels, for which the student learns the teacher's probabilities.
        role: What the record and the report call it.
        callbacks: Called in the fit after the usual ones.

    Raises:
        ArtifactError: See `label`; or a training has ended in `directory`.
        ConfigError: See `label` and `Student.create`.
    """
    _require_unfinished(directory)
    labelled = teacher
    if not isinstance(labelled, DistillationSet):
        labelled = label(config, corpus, together([labelled]), unlabelled)
    check_distillation(config, with_unlabelled=len(labelled.texts) > len(corpus.train))
    student = Student.create(
        config.student, corpus, config.data.max_length, seed,
        long_texts=config.data.long_texts, texts=labelled.texts.all_texts,
        backbone=labelled.backbone,
        teacher_tokenizer=labelled.tokenizer_name or getattr(config.teacher, "backbone", None),
    )  # fmt: skip
    data = Splits(
        student.featurise(labelled.texts, labelled.logits),
        student.featurise(corpus.validation, labelled.validation_logits),
    )
    with half_of_the_time():
        pretrained = student.network.pretrain(data, config.student, config.runtime, directory, seed)
    settings, weights = config.distillation, class_weights(config.student.training, corpus)
    loss = Distillation(weights, task_of(corpus), settings.alpha, settings.temperature, settings.loss)
    seconds = 0.0 if pretrained is None else pretrained.seconds
    return _fit_student(config, student, data, loss, role, directory, seed, seconds, callbacks)


def train(
    config: PotstillConfig, corpus: Corpus, directory: Path, seed: int = 0, *, role: Role = "baseline"
) -> Trained:
    """Train the same student from the labels alone: the baseline. Arguments as for `distill`.

    It is `distill` with alpha 1 and without the teacher's embeddings, unlabelled text and language modelling.
    """
    _require_unfinished(directory)
    settings = config.student.without_teacher()
    config = config.model_copy(update={"student": settings})
    student = Student.create(
        settings, corpus, config.data.max_length, seed,
        long_texts=config.data.long_texts, texts=corpus.train.all_texts,
        teacher_tokenizer=getattr(config.teacher, "backbone", None),
    )  # fmt: skip
    data = Splits(student.featurise(corpus.train), student.featurise(corpus.validation))
    loss = CrossEntropy(class_weights(settings.training, corpus), task_of(corpus))
    return _fit_student(config, student, data, loss, role, directory, seed)


def _require_unfinished(directory: Path) -> None:
    if TrainingRecord.find(directory) is not None:
        raise ArtifactError(
            f"{directory}: expected a new directory, or an interrupted training, found a finished one\n"
            f"  what to do: name another directory, or remove this one"
        )


def _fit_student(
    config: PotstillConfig,
    student: Student,
    data: Splits,
    loss: CrossEntropy,
    role: Role,
    directory: Path,
    seed: int,
    seconds: float = 0.0,
    callbacks: Sequence[Callback] = (),
) -> Trained:
    """Fit a student whose language modelling took `seconds`."""
    stages, settings = (config.student, config.distillation), config.student.training
    if student.network.reads_tokens and seed not in config.student.seeds[1:]:  # once
        warn_of_cut(data.train.tokens, data.train.labels.numpy(), student.max_length, f"{role} student")
    usual = standard_callbacks(
        settings, config.runtime, directory, stages, save=lambda: student.save(directory), more=callbacks
    )
    context = FitContext(settings, make_fabric(config.runtime), seed, f"{role} {seed}", usual)
    fitted = fit(student.network, data, loss, context)
    round_tables(student.network)
    fitted = FitResult(fitted.history, fitted.best, seconds + fitted.seconds)
    return _finish_student(config, student, data.validation, fitted, role, directory, seed)


def _finish_student(
    config: PotstillConfig,
    student: Student,
    validation: TrainingSet,
    fitted: FitResult,
    role: Role,
    directory: Path,
    seed: int,
) -> Trained:
    """Calibrate a student on the validation split, prove its ONNX graph, save it and record its training."""
    exact = make_fabric(config.runtime.model_copy(update={"precision": "32-true"}))  # as prediction computes
    logits = predict_logits(student.network, validation, exact).numpy()
    if not np.isfinite(logits).all():
        raise TrainingError(
            f"{role} {seed}: expected finite logits after its training, found others\n"
            f"  what to do: lower the learning rate or set max_grad_norm"
        )
    labels, tuned = validation.labels.numpy(), config.student.threshold == "tuned"
    student.calibrated(logits, labels, tune_threshold=tuned).save(directory)
    student.prove(directory)
    total, trainable = count_parameters(student.network)
    record = TrainingRecord(
        role=role,
        seed=seed,
        description=student.network.describe(config.student),
        parameters=total,
        trainable_parameters=trainable,
        bytes_on_disk=student_bytes(directory),
        train_seconds=fitted.seconds,
        best=fitted.best,
    )
    return Trained.finish(directory, record, fitted)
