"""The steps of an experiment and the whole of it: teacher → distilled student → baseline → report."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from potstill.artifacts import digest
from potstill.config import PotstillConfig, PretrainingConfig, TrainingConfig
from potstill.console import print_line, warn
from potstill.data import Corpus, Examples, load_corpus
from potstill.data.tokenised import TrainingSet
from potstill.directories import ENVIRONMENT_FILE, Work, working_directory
from potstill.distillation.hidden import Matching, MatchingObjective, teacher_states, with_hidden_states
from potstill.distillation.loss import Objective, balanced_weights
from potstill.distillation.teacher_logits import joint_key, judgement
from potstill.errors import ArtifactError, ConfigError
from potstill.evaluation import DataSummary, McNemar, ModelResult, Role, Summary, mcnemar
from potstill.files import read_json, write_csv
from potstill.interruption import Stopped, stoppable
from potstill.lora.counting import count_parameters
from potstill.models import (
    Measurement,
    StudentModel,
    TeacherModel,
    TrainingRecord,
    measure,
    measure_together,
    require_same_kind,
)
from potstill.report import is_reported, read_summary, write_report
from potstill.report.tables import classes
from potstill.runtime import Classifier
from potstill.runtime.directory import CONFIG_FILE, TRAINING_FILE, TRANSFER_FILE
from potstill.runtime.seal import read
from potstill.student.embeddings import check_embeddings
from potstill.student.model import Student, check_tokenizer, student_bytes
from potstill.student.pretraining import pretrain
from potstill.teacher import Teacher, check_sources, put_on_one_base, teacher_bytes
from potstill.training.checkpoint import CHECKPOINT_FILE, Checkpointing
from potstill.training.compute import make_fabric
from potstill.training.inference import predict_logits, tokens_at_once
from potstill.training.loop import HISTORY_FILE, FitResult, Record, fit, parse_history
from potstill.training.workers import available_workers, workers
from potstill.transfer.build import build_transfer_set, check_transfer, files_key, held_out_key
from potstill.transfer.sets import TransferSet

PRETRAINING_FILE = "pretraining.jsonl"
PRETRAINING_CHECKPOINT_FILE = "pretraining-checkpoint.safetensors"

_CHECKPOINTS = (CHECKPOINT_FILE, PRETRAINING_CHECKPOINT_FILE)

_WORTH_FORKING: Final = 20_000
"""Texts, as often as they are read, from which students are trained in processes of their own: seconds of work, where
starting and ending these takes some tenths."""

Task = TypeVar("Task")


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

    @classmethod
    def find(cls, directory: Path) -> Trained | None:
        """Return the model whose training in `directory` has ended, if there is one.

        Raises:
            ArtifactError: Its record or its history is damaged.
        """
        record = TrainingRecord.find(directory)
        if record is None:
            return None
        _remove_checkpoints(directory)  # an interruption may have come between record and removal
        history = parse_history(read(directory, [HISTORY_FILE])[HISTORY_FILE], directory / HISTORY_FILE)
        return cls(directory, record, FitResult(history, record.best, record.train_seconds))

    @staticmethod
    def is_complete(directory: Path) -> bool:
        """Say whether a training has ended in `directory`, and its checkpoints are removed."""
        return (directory / TRAINING_FILE).is_file() and not any((directory / name).exists() for name in _CHECKPOINTS)

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
            threshold=measured.threshold,
            argmax_metrics=measured.argmax_metrics,
        )


def finetune(config: PotstillConfig, corpus: Corpus, directory: Path, seed: int = 0) -> tuple[Teacher, Trained]:
    """Tune the backbone on the labels: adapters, or what else `teacher.method` names.

    Args:
        config: `data`, `teacher` and `runtime` are used.
        corpus: The task.
        directory: Where to save the teacher; made if need be. The same training is resumed there, if it was
            interrupted.
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
        Objective(class_weights=class_weights(config.teacher.training, corpus)),
        config.teacher.training,
        fabric=teacher.fabric,
        seed=seed,
        history_file=directory / HISTORY_FILE,
        save=lambda: teacher.save(directory),
        title=f"teacher {seed}",
        b_ratio=teacher.b_ratio,
        most_tokens=tokens_at_once(teacher.fabric),
        checkpointing=Checkpointing.of(config.runtime, directory / CHECKPOINT_FILE, config.teacher),
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
        directory: Where to save the student; made if need be. The same training is resumed there, if it was
            interrupted.
        seed: Decides weights, batches and dropout.
        transfer: More texts, without labels, for the student to learn the teacher's judgement of.
        on_student: Gets the student before anything is trained; what it raises ends all.
        on_epoch: See `fit`.

    Raises:
        ArtifactError: The teacher knows other classes, or judges pairs of texts where the corpus has single ones; or
            the transfer set was built for other data.
        ConfigError: There are transfer texts, but no teacher is to be learnt from; or hidden states of pairs of texts
            are to be matched; or a teacher of random weights is to give the embeddings.
    """
    teachers = (teacher,) if isinstance(teacher, Teacher) else tuple(teacher)
    check_teachers(corpus, teachers, transfer)
    check_distillation(config, corpus, with_transfer=transfer is not None)
    settings = config.distillation
    objective = Objective(
        settings.alpha, settings.temperature, settings.objective, class_weights(config.student.training, corpus)
    )
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
        train_logits, selection_logits = _corpus_logits(teachers, corpus)
        if transfer is not None:
            train_logits = torch.cat([train_logits, _transfer_logits(teachers, transfer, settings.judges)])
    texts = _texts(corpus, transfer)
    train_set = student.training_set(texts, train_logits)
    selection = student.training_set(corpus.selection, selection_logits)
    if transfer is not None:
        weights = torch.cat([torch.ones(len(corpus.train)), transfer.weights(settings.source_weights)])
        train_set = replace(train_set, weights=weights / weights.mean())
    pretrained = pretrain(
        student.network,
        train_set,
        selection,
        config.student.pretraining,
        fabric=make_fabric(config.runtime),
        seed=seed,
        history_file=directory / PRETRAINING_FILE,
        title=f"language modelling {seed}",
        checkpointing=Checkpointing.of(config.runtime, directory / PRETRAINING_CHECKPOINT_FILE, config.student),
    )
    if settings.hidden_weight:
        train_set = with_hidden_states(train_set, student, teachers[0], texts)
    seconds = 0.0 if pretrained is None else pretrained.seconds
    return _fit_student(
        config, student, train_set, selection, objective, "distilled", directory, seed, on_epoch, seconds
    )


def train(config: PotstillConfig, corpus: Corpus, directory: Path, seed: int = 0) -> Trained:
    """Train the same student from the labels alone: the baseline. Arguments as for `distill`.

    Nothing of a teacher goes into it: no embeddings, and no language modelling first.
    """
    alone = {"embedding_init": "random", "pretraining": PretrainingConfig()}
    config = config.model_copy(update={"student": config.student.model_copy(update=alone)})
    student = Student.create(config.student, corpus, config.data.max_tokens, config.teacher.tokenizer_name, seed)
    train_set, selection = map(student.training_set, (corpus.train, corpus.selection))
    objective = Objective(class_weights=class_weights(config.student.training, corpus))
    return _fit_student(config, student, train_set, selection, objective, "baseline", directory, seed)


def side_by_side(
    train_student: Callable[[Task], Trained],
    tasks: Sequence[Task],
    config: PotstillConfig,
    corpus: Corpus,
    transfer: TransferSet | None = None,
) -> list[Trained]:
    """Train several students, as many at once as there are threads, each with one of these.

    The steps of so small a network are too short to be shared by threads.

    Args:
        train_student: Trains the student of a task, or finds it trained.
        tasks: One per student.
        config: `student.training` and `runtime` are used.
        corpus: What the students learn from.
        transfer: What else they learn from.

    Returns:
        The students in the tasks' order.

    Raises:
        TrainingError: A training broke down, or its process was killed.
        Stopped: Ctrl-C or SIGTERM, where somebody handles them; what each training had reached is kept.
    """
    texts = len(corpus.train) + (0 if transfer is None else len(transfer))
    worthwhile = texts * config.student.training.epochs >= _WORTH_FORKING
    at_once = min(len(tasks), available_workers(make_fabric(config.runtime).device)) if worthwhile else 1
    if at_once == 1:
        return [train_student(task) for task in tasks]

    def apart(task: Task) -> Trained | None:
        try:
            with stoppable(is_worker=True):
                return train_student(task)
        except Stopped:
            return None

    trained: list[Trained] = []
    try:
        with workers(apart, at_once, keeps_unfinished=True) as training:
            for found in training(tasks):
                if found is None:  # somebody has ended that process, and not this one
                    raise Stopped(signal.SIGTERM)
                trained.append(found)
    except Stopped as stopped:
        if config.runtime.checkpoint_seconds is not None:
            stopped.kept = "each training is kept as it was after its latest step"
        raise
    return trained


def transfer_set(
    config: PotstillConfig, corpus: Corpus, teacher: Teacher | Sequence[Teacher] | None, directory: Path
) -> TransferSet | None:
    """Build the transfer set that `config` asks for, and have it judged; None where it asks for none.

    Args:
        config: `data`, `transfer`, `teacher` (the backbone) and `runtime` are used.
        corpus: The task.
        teacher: Who judges; None: nobody yet.
        directory: Where to keep it. What a call that was interrupted left there is resumed.

    Raises:
        PotstillError: See `build_transfer_set`.
    """
    if not config.transfer.wanted:
        return None
    if teacher is None:
        return build_transfer_set(config, corpus, directory)
    teachers = (teacher,) if isinstance(teacher, Teacher) else tuple(teacher)
    check_teachers(corpus, teachers, None)
    built = build_transfer_set(config, corpus, directory)
    judges = config.distillation.judges
    if built.teacher != (key := joint_key(teachers, judges)):
        built = built.judged(judgement(teachers, built.examples, judges), key)
        built.save(directory / TRANSFER_FILE)
    return built


def have_judged(
    config: PotstillConfig, corpus: Corpus, teachers: Sequence[Teacher], transfer: TransferSet | None
) -> None:
    """Ask the teachers for what `distill` will want to know: students side by side then find it kept.

    Raises:
        ArtifactError: See `distill`.
        ConfigError: See `distill`.
    """
    check_teachers(corpus, teachers, transfer)
    check_distillation(config, corpus, with_transfer=transfer is not None)
    _tell_idle_weights(config.distillation.source_weights, transfer)
    if Objective(config.distillation.alpha).needs_teacher:
        _corpus_logits(teachers, corpus)
        if transfer is not None:
            judges = config.distillation.judges
            if transfer.logits is not None and transfer.teacher != joint_key(teachers, judges):
                print_line(
                    "the transfer set was judged by other teachers or another number of --judges: "
                    "what these have not judged yet is asked for"
                )
            _transfer_logits(teachers, transfer, judges)
    if config.distillation.hidden_weight:
        teacher_states(teachers[0], _texts(corpus, transfer))


def _tell_idle_weights(weights: Mapping[str, float], transfer: TransferSet | None) -> None:
    """Warn of weights that weigh no text."""
    if transfer is None:
        idle, found = list(weights), "there is no transfer set"
    else:
        idle = transfer.idle(weights)
        found = f"its sources are {classes(sorted(set(transfer.sources)))}, and of several patterns the first decides"
    if idle:
        warn(f"distillation.source_weights: no text is weighed by {classes(idle)}; {found}")


def _texts(corpus: Corpus, transfer: TransferSet | None) -> Examples:
    """Return all that a distilled student learns from."""
    return corpus.train if transfer is None else corpus.train.joined(transfer.examples)


def check_teachers(corpus: Corpus, teachers: Sequence[Teacher], transfer: TransferSet | None) -> None:
    """Refuse teachers and texts that don't belong together.

    Raises:
        ArtifactError: See `distill`.
    """
    for one in teachers:
        if not corpus.has_classes(one.manifest.label_names):
            raise ArtifactError(
                f"expected a teacher of the classes {list(corpus.label_names)}, found one of "
                f"{list(one.manifest.label_names)}\n  what to do: tune a teacher on this data first"
            )
        require_same_kind(corpus.train, reads_pairs=one.manifest.pairs)
    if transfer is not None:
        require_same_kind(transfer.examples, reads_pairs=corpus.in_pairs)
        if transfer.held_out not in (None, held_out_key(corpus)):
            raise ArtifactError(
                "expected a transfer set without what is like this data's selection and evaluation texts, found one "
                "that was freed of other texts\n  what to do: build it from the same data and the same split"
            )


def _corpus_logits(teachers: Sequence[Teacher], corpus: Corpus) -> tuple[Tensor, Tensor]:
    """Return what the teachers say of the training and the selection split, (texts, classes) each; asked at once."""
    logits = judgement(teachers, corpus.train.joined(corpus.selection))
    return logits[: len(corpus.train)], logits[len(corpus.train) :]


def _transfer_logits(teachers: Sequence[Teacher], transfer: TransferSet, judges: int | None) -> Tensor:
    """Return what the teachers say of a transfer set, (texts, classes): as it stands there where it is theirs."""
    if transfer.logits is not None and transfer.teacher == joint_key(teachers, judges):
        return torch.from_numpy(transfer.logits)
    return judgement(teachers, transfer.examples, judges)


def run(
    config: PotstillConfig, out: Path | None = None, *, name: str | None = None, command: str = "", fresh: bool = False
) -> tuple[Summary, Path]:
    """Do the whole experiment in a run directory: config, models, histories, plots, report.

    A run of the same settings and data that was interrupted is resumed, and ends as if nothing had happened.

    Args:
        config: All settings.
        out: The run directory: new or empty, or that of the same run, interrupted or finished (then nothing is done
            again). None: that of the newest interrupted one among `runs/NAME-*`, else `runs/NAME-DATE-TIME`.
        name: What to call it; none: the data's name.
        command: Command line that repeats the run, for the report.
        fresh: Begin anew, whatever was interrupted.

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
    check_distillation(config, corpus, with_transfer=config.transfer.wanted)
    check_embeddings(config.student, config.teacher.backbone)
    inputs = {"texts": corpus.key(), "transfer files": files_key(config)}
    work = Work("run", name or corpus.name, config, inputs, is_reported, free=("search",))
    with working_directory(work, out, fresh=fresh) as directory:
        if is_reported(directory):
            return read_summary(directory), directory
        print_line(f"{corpus.name} ({corpus.source}) → {directory}")
        return _experiment(config, corpus, directory, command), directory


def _experiment(config: PotstillConfig, corpus: Corpus, directory: Path, command: str) -> Summary:
    """Do what is not done yet of the experiment in `directory`."""
    _tell_finished(config, directory)
    answers: dict[tuple[Role, int], NDArray[np.int64]] = {}
    results: list[ModelResult] = []

    def keep(trained: Trained, measured: Measurement) -> None:
        answers[trained.record.role, trained.record.seed] = measured.predictions
        results.append(trained.result(measured))

    tuned: list[tuple[Teacher, Trained]] = []
    measured: list[Measurement] = []
    for seed in config.teacher.seeds:
        teacher, trained = _teacher(config, corpus, _place(directory, "teacher", seed), seed)
        measured.append(measure(TeacherModel(teacher), corpus.evaluation))
        keep(trained, measured[-1])
        tuned.append((teacher, trained))
        best = max(tuned, key=lambda pair: pair[1].fit.best["mcc"])  # the first of equals
        if config.distillation.teachers == "best":
            tuned = [best]  # the others would only take memory
        teachers = [teacher for teacher, _ in tuned]
        put_on_one_base(teachers)
    transfer = transfer_set(config, corpus, teachers, directory / "transfer")
    have_judged(config, corpus, teachers, transfer)

    baseline = _of_baseline(config)

    def student(task: tuple[Role, int]) -> Trained:
        role, seed = task
        place = _place(directory, role, seed)
        if (finished := Trained.find(place)) is not None:
            return finished
        if role == "distilled":
            return distill(config, corpus, teachers, place, seed, transfer=transfer)
        return train(baseline, corpus, place, seed)

    roles: tuple[Role, ...] = ("distilled", "baseline")
    tasks = [(role, seed) for seed in config.student.seeds for role in roles]
    for trained in side_by_side(student, tasks, config, corpus, transfer):
        keep(trained, measure(StudentModel(Classifier.load(trained.directory)), corpus.evaluation))

    _save_predictions(directory / "predictions.csv", corpus, answers)
    summary = Summary(
        data=DataSummary.of(corpus),
        models=tuple(results),
        teacher_seed=best[1].record.seed,
        comparisons=dict(_comparisons(corpus, config.student.seeds, answers)),
        command=command or shlex.join(["potstill", "run", "--config", str(directory / CONFIG_FILE)]),
        config=config.model_dump(mode="json"),
        environment=read_json(directory / ENVIRONMENT_FILE),
        transfer=None if transfer is None else transfer.summary,
        ensemble=measure_together(measured, corpus.evaluation) if len(teachers) > 1 else None,
    )
    write_report(summary, directory)
    return summary


def _of_baseline(config: PotstillConfig) -> PotstillConfig:
    """Return the settings of a run's baseline: its own number of epochs, where it has one."""
    if (epochs := config.baseline.epochs) is None:
        return config
    training = config.student.training.model_copy(update={"epochs": epochs})
    return config.model_copy(update={"student": config.student.model_copy(update={"training": training})})


def _place(directory: Path, role: Role, seed: int) -> Path:
    """Return where a run keeps a model."""
    return directory / role / f"seed-{seed}"


def _teacher(config: PotstillConfig, corpus: Corpus, directory: Path, seed: int) -> tuple[Teacher, Trained]:
    """Tune a teacher, unless its tuning has ended there, and load what was saved.

    What was tuned is not used on: with PiSSA adapters the base that is loaded differs from it in its last bits, and a
    run that was interrupted must judge as an undisturbed one does.
    """
    trained = Trained.find(directory) or finetune(config, corpus, directory, seed)[1]
    return Teacher.load(directory, config.runtime), trained


def _tell_finished(config: PotstillConfig, directory: Path) -> None:
    """Say which models need no training any more."""
    seeds: list[tuple[Role, int]] = [("teacher", seed) for seed in config.teacher.seeds]
    seeds += [(role, seed) for seed in config.student.seeds for role in ("distilled", "baseline")]
    done = [f"{role} {seed}" for role, seed in seeds if TrainingRecord.find(_place(directory, role, seed)) is not None]
    if done:
        print_line(f"finished before: {', '.join(done)}")


def input_keys(teachers: Sequence[Teacher], transfer: TransferSet | None) -> dict[str, str | None]:
    """Return digests of what a student learns from beside the corpus, by what to call it."""
    return {
        "teacher's weights": joint_key(teachers),
        "transfer set": None if transfer is None else digest([*transfer.sources, *transfer.examples.content]),
    }


def resolved(config: PotstillConfig, corpus: Corpus) -> PotstillConfig:
    """Say which data `auto` came down to, so that the saved configuration repeats this run on any machine."""
    if config.data.source != "auto":
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"source": corpus.name})})


def check_distillation(config: PotstillConfig, corpus: Corpus, *, with_transfer: bool) -> None:
    """Refuse settings that contradict each other or the data.

    Raises:
        ConfigError: With every problem that was found.
    """
    problems = []
    if with_transfer and config.distillation.alpha == 1.0:
        problems.append("distillation.alpha: 1 looks at no teacher, and a transfer set has no labels; lower it")
    if config.distillation.hidden_weight and corpus.in_pairs:
        problems.append("distillation.hidden_weight: single texts' words can be matched, pairs' can't; leave it at 0")
    if config.student.embedding_init == "teacher" and config.teacher.random_init:
        problems.append("student.embedding_init: `teacher` takes pretrained embeddings, teacher.random_init has none")
    if problems:
        raise ConfigError(problems)


def _matching(
    student: Student, train_set: TrainingSet, objective: Objective, weight: float, seed: int
) -> tuple[nn.Module, Objective | MatchingObjective]:
    """Return what is fitted and to what: with the projection to the teacher's hidden states where there are any."""
    if train_set.hidden is None:
        return student.network, objective
    torch.manual_seed(seed)  # whatever came before: a language modelling that an interrupted call had finished, or not
    model = Matching(student.network, train_set.hidden.values.shape[1])
    return model, MatchingObjective(objective, weight, model.projection)


def class_weights(config: TrainingConfig, corpus: Corpus) -> Tensor | None:
    """Return how much a label of each class counts in training, (classes,); None: all the same."""
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
    seconds: float = 0.0,
) -> Trained:
    """Fit a student that has taken `seconds` before, and calibrate it."""
    fabric = make_fabric(config.runtime)
    model, loss = _matching(student, train_set, objective, config.distillation.hidden_weight, seed)
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
        checkpointing=Checkpointing.of(
            config.runtime, directory / CHECKPOINT_FILE, config.student, config.distillation
        ),
    )
    exact = make_fabric(config.runtime.model_copy(update={"precision": "32-true"}))  # as the runtime will compute
    logits = predict_logits(student.network, selection, exact).numpy()  # of the best epoch
    tuned = config.student.threshold == "tuned"
    student.calibrated(logits, selection.labels.numpy(), tune_threshold=tuned).save(directory)
    student.prove(directory)
    size = student_bytes(directory)
    fitted = replace(fitted, seconds=seconds + fitted.seconds)
    return _finish(role, seed, directory, fitted, count_parameters(student.network), size)


def _finish(
    role: Role, seed: int, directory: Path, fitted: FitResult, parameters: tuple[int, int], size: int
) -> Trained:
    """Write `training.json`, for whoever meets the model without its run: the training has ended."""
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
    _remove_checkpoints(directory)
    return Trained(directory, record, fitted)


def _remove_checkpoints(directory: Path) -> None:
    for name in _CHECKPOINTS:
        (directory / name).unlink(missing_ok=True)


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
    write_csv(path, [table, *zip(*table.values(), strict=True)])
