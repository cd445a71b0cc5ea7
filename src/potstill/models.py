"""Saved models, whatever their kind: opened, asked, measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from potstill.config import RuntimeConfig
from potstill.console import warn
from potstill.data import Corpus, Examples
from potstill.directories import begun_inputs
from potstill.distillation.teacher_logits import averaged
from potstill.errors import ArtifactError
from potstill.evaluation import (
    ROLES,
    Calibration,
    EnsembleResult,
    Intervals,
    Metrics,
    Role,
    bootstrap_intervals,
    compute_metrics,
)
from potstill.files import write_json
from potstill.runtime import Classifier
from potstill.runtime.decision import decide, softmax
from potstill.runtime.directory import (
    CONFIG_FILE,
    TEACHER_MANIFEST,
    TRAINING_FILE,
    StudentFiles,
    holds,
    is_exported,
    is_model,
    is_student,
    is_teacher,
    models_in,
)
from potstill.runtime.seal import read, sealing
from potstill.teacher import Teacher, put_on_one_base

_MEASURED_SECONDS: Final = 0.1
"""Time for which speeds are measured at least: few texts are read several times."""


@dataclass(frozen=True)
class TrainingRecord:
    """How a saved model came about: `training.json` in its directory. `ModelResult` explains the fields.

    It is written when the training ends: a model whose training was interrupted has none.
    """

    role: Role
    seed: int
    parameters: int
    trainable_parameters: int
    bytes_on_disk: int
    train_seconds: float
    best: dict[str, Any]

    def save(self, directory: Path) -> None:
        """Write the record, and seal it and the histories with the model."""
        with sealing(directory, also=[file.name for file in directory.glob("*.jsonl")]) as staged:
            write_json(staged / TRAINING_FILE, vars(self))

    @classmethod
    def find(cls, directory: Path) -> TrainingRecord | None:
        """Read the record if there is one."""
        return cls.load(directory) if holds(directory, TRAINING_FILE) else None

    @classmethod
    def load(cls, directory: Path) -> TrainingRecord:
        """Read the record.

        Raises:
            ArtifactError: There is none, or it was altered, or a field is missing or of the wrong kind.
        """
        content = read(directory, [TRAINING_FILE])[TRAINING_FILE]
        try:
            return TypeAdapter(cls).validate_json(content)
        except ValidationError as error:
            raise ArtifactError(
                f"{directory / TRAINING_FILE} is damaged: {error}\n  what to do: restore the file, or train again"
            ) from None


class SavedModel(Protocol):
    """Anything that turns texts into scores, and scores into answers.

    Its probabilities are softmax(logits / `temperature`), its answers what `decide` makes of them and `threshold`.
    """

    label_names: tuple[str, ...]
    reads_pairs: bool
    temperature: float
    threshold: float | None

    def logits(self, examples: Examples) -> NDArray[np.float32]:
        """Return the scores before temperature and softmax, (texts, classes); the labels are not looked at."""


class TeacherModel:
    """A saved teacher, computed by PyTorch; its probabilities are as training left them."""

    temperature: float = 1.0
    threshold: float | None = None

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.label_names = teacher.manifest.label_names
        self.reads_pairs = teacher.manifest.pairs

    def logits(self, examples: Examples) -> NDArray[np.float32]:
        """Return the scores before the softmax, (texts, classes)."""
        logits: NDArray[np.float32] = self._teacher.logits(examples).numpy()
        return logits

    def probabilities(self, texts: Sequence[Any]) -> NDArray[np.float32]:
        """Return the probability of each class, (texts, classes); pairs of texts where the teacher reads pairs.

        The texts' token ids are not cached: there may be any number of texts, each seen once.
        """
        first, second = zip(*texts, strict=True) if self.reads_pairs else (tuple(texts), None)
        examples = Examples(first, np.zeros(len(texts), dtype=np.int64), second)
        return self._teacher.logits(examples, cached=False).softmax(dim=1).numpy()


class StudentModel:
    """A saved student, computed by onnxruntime as its users will compute it."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self.label_names = classifier.labels
        self.reads_pairs = classifier.reads_pairs
        self.temperature = classifier.temperature
        self.threshold = classifier.threshold

    def logits(self, examples: Examples) -> NDArray[np.float32]:
        """Return the scores before temperature and softmax, (texts, classes)."""
        if examples.pairs is None:
            return self._classifier.logits(examples.texts)
        return self._classifier.logits(list(zip(examples.texts, examples.pairs, strict=True)))


@dataclass(frozen=True)
class Measurement:
    """A model's answers on a labelled split, and what they are worth.

    Attributes:
        logits: Scores before temperature and softmax, (texts, classes).
        predictions: Class index per text, (texts,).
        metrics: Scores.
        intervals: 95 % interval of each score.
        sentences_per_second: Speed end to end, from strings.
        calibration: How good the probabilities are.
        threshold: What the second class's probability has to exceed to be the answer; None: the most probable class is.
        argmax_metrics: Scores of the most probable class as the answer, where a threshold decides; else None.
    """

    logits: NDArray[np.float32]
    predictions: NDArray[np.int64]
    metrics: Metrics
    intervals: Intervals
    sentences_per_second: float
    calibration: Calibration
    threshold: float | None = None
    argmax_metrics: Metrics | None = None


def model_directories(path: Path) -> list[Path]:
    """List the models at `path`: itself, or all of a run's, or those of several seeds.

    Raises:
        ArtifactError: There is none.
    """
    if is_model(path):
        return [path]
    found = models_in(path)
    if not found:
        raise ArtifactError(
            f"{path}: expected a model directory (with {TEACHER_MANIFEST} or {StudentFiles(path).manifest.name}) or a "
            f"run directory with models in it, found neither\n  what to do: name what `potstill run`, `finetune`, "
            f"`distill` or `train` wrote"
        )
    return found


def places(model: Path) -> list[Path]:
    """Return a model's directory, and those above it that are its seeds' and its run's: where its settings may be."""
    found = [model]
    if model.name.startswith("seed-"):
        found.append(model.parent)
        if model.parent.name in ROLES:
            found.append(model.parent.parent)
    return found


def settings_file(model: Path) -> Path | None:
    """Find the configuration of a model's training: beside it, or above it in its run's directory."""
    return next((file for place in places(model.resolve()) if (file := place / CONFIG_FILE).is_file()), None)


def corpus_key(model: Path) -> str | None:
    """Return the digest of the data and the split that a model was trained with; None where nothing there says so."""
    file = settings_file(model)
    return None if file is None else begun_inputs(file.parent).get("texts")


def is_finished(model: Path) -> bool:
    """Say whether a training has ended; what was exported, or written by `peft`, is taken as it is."""
    if is_student(model):
        return holds(model, TRAINING_FILE) or is_exported(model)
    return holds(model, TRAINING_FILE) or not holds(model, TEACHER_MANIFEST)


def load_teachers(
    path: Path, runtime: RuntimeConfig, which: Literal["best", "average"], corpus: Corpus | None = None
) -> list[Teacher]:
    """Load the teachers at `path` that shall judge: the best in selection, or all of them.

    One whose training was interrupted judges only where it is the only one, and not without a warning. A warning says
    too where one was tuned with other data than `corpus`, or another split of it.

    Raises:
        ArtifactError: There is none, or of several none is finished, or one is damaged.
        SourceError: A backbone can't be found or reached.
    """
    directories = _finished_teachers(path) if which == "average" else [find_teacher(path)]
    key = None if corpus is None else corpus.key()
    for directory in directories:
        if not is_finished(directory):
            warn(f"the training of the teacher in {directory} was interrupted: its best epoch so far judges")
        if key is not None and corpus_key(directory) not in (None, key):
            warn(
                f"the teacher in {directory} was tuned with other data or another split: if it has read texts of the "
                "selection or evaluation part, the students' scores flatter"
            )
    teachers = [Teacher.load(directory, runtime) for directory in directories]
    put_on_one_base(teachers)
    return teachers


def _teacher_directories(path: Path) -> list[Path]:
    teachers = [directory for directory in model_directories(path) if is_teacher(directory)]
    if not teachers:
        raise ArtifactError(f"{path}: expected a tuned teacher, found students\n  what to do: `potstill finetune`")
    return teachers


def _finished_teachers(path: Path) -> list[Path]:
    """List the teachers whose training has ended, or the only one there is."""
    teachers = _teacher_directories(path)
    if len(teachers) == 1:
        return teachers
    finished = [directory for directory in teachers if is_finished(directory)]
    if not finished:
        raise _none_finished(path, teachers)
    if left_out := [str(directory) for directory in teachers if directory not in finished]:
        warn(f"not asked, since their training was interrupted: {', '.join(left_out)}")
    return finished


def _none_finished(path: Path, teachers: Sequence[Path]) -> ArtifactError:
    return ArtifactError(
        f"{path}: expected a teacher whose training has ended, found {len(teachers)} interrupted ones\n"
        f"  what to do: name one of them, such as {teachers[0]}, or train again"
    )


def find_teacher(path: Path) -> Path:
    """Return the teacher's directory at `path`: itself, or the best in selection of the teachers in it.

    Raises:
        ArtifactError: There is none.
    """
    teachers = _teacher_directories(path)
    if len(teachers) == 1:
        return teachers[0]
    finished = [directory for directory in teachers if holds(directory, TRAINING_FILE)]
    if not finished:
        raise _none_finished(path, teachers)
    return max(finished, key=lambda directory: float(TrainingRecord.load(directory).best["mcc"]))


def open_model(directory: Path | str, runtime: RuntimeConfig) -> SavedModel:
    """Load one saved model.

    Raises:
        ArtifactError: It is missing, incomplete or damaged, or the directory is a run's, of several.
    """
    found = model_directories(Path(directory))
    if len(found) > 1:
        raise ArtifactError(
            f"{directory}: expected one model, found {len(found)}\n  what to do: name one of them, such as {found[0]}"
        )
    if is_teacher(found[0]):
        return TeacherModel(Teacher.load(found[0], runtime))
    return StudentModel(Classifier.load(found[0]))


def measure(model: SavedModel, examples: Examples) -> Measurement:
    """Score `model` on labelled texts.

    Raises:
        ArtifactError: The model classifies pairs of texts and the examples are none, or the other way round.
    """
    require_same_kind(examples, reads_pairs=model.reads_pairs)
    _warm_up(model, examples)
    started, passes, seconds = time.perf_counter(), 0, 0.0
    while seconds < _MEASURED_SECONDS:
        logits = model.logits(examples)
        predictions = decide(softmax(logits, model.temperature), model.threshold)
        passes, seconds = passes + 1, time.perf_counter() - started
    classes = len(model.label_names)
    argmax_metrics = None
    if model.threshold is not None:
        argmax = decide(softmax(logits, model.temperature))
        argmax_metrics = compute_metrics(examples.labels, argmax, classes)
    return Measurement(
        logits=logits,
        predictions=predictions,
        metrics=compute_metrics(examples.labels, predictions, classes),
        intervals=bootstrap_intervals(examples.labels, predictions, classes),
        sentences_per_second=passes * len(examples) / seconds,
        calibration=Calibration.of(logits, examples.labels, model.temperature),
        threshold=model.threshold,
        argmax_metrics=argmax_metrics,
    )


def measure_together(teachers: Sequence[Measurement], examples: Examples) -> EnsembleResult:
    """Score several teachers as one, their probabilities averaged, from what each of them said of labelled texts."""
    logits = averaged([torch.from_numpy(measured.logits) for measured in teachers]).numpy()
    predictions, classes = logits.argmax(axis=1), logits.shape[1]
    return EnsembleResult(
        metrics=compute_metrics(examples.labels, predictions, classes),
        intervals=bootstrap_intervals(examples.labels, predictions, classes),
        calibration=Calibration.of(logits, examples.labels),
    )


def require_same_kind(examples: Examples, *, reads_pairs: bool) -> None:
    """Check that a model of pairs gets pairs, and any other one single texts.

    Raises:
        ArtifactError: It is the other way round.
    """
    if reads_pairs != (examples.pairs is not None):
        kinds = ("single texts", "pairs of texts")
        raise ArtifactError(
            f"the model classifies {kinds[reads_pairs]}, the data holds {kinds[not reads_pairs]}\n"
            f"  what to do: name the second text's column with --pair-column, or leave that out"
        )


def _warm_up(model: SavedModel, examples: Examples) -> None:
    """Keep what happens once (allocations, kernel choice) out of the measured time."""
    model.logits(examples.take(range(min(16, len(examples)))))
