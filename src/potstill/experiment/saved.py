"""Finding and opening saved models of any kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from potstill.config import FileConfig, PotstillConfig, RuntimeConfig
from potstill.console import warn
from potstill.data import Corpus, Examples
from potstill.errors import ArtifactError
from potstill.evaluation.measure import SavedModel
from potstill.experiment.record import TrainingRecord
from potstill.experiment.run_directory import recorded_inputs
from potstill.predict import Classifier
from potstill.predict.directory import (
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
    places,
)
from potstill.predict.hub import local_model
from potstill.teacher.base import Teacher
from potstill.teacher.ensemble import together
from potstill.teacher.file import FileTeacher
from potstill.teacher.saved import open_teacher
from potstill.teacher.transformer import share_base_weights


class StudentModel:
    """A saved student, computed by onnxruntime as its users will compute it."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self.label_names, self.in_pairs = classifier.label_names, classifier.in_pairs
        self.temperature, self.threshold = classifier.temperature, classifier.threshold
        self.min_confidence = classifier.min_confidence

    def logits(self, examples: Examples) -> NDArray[np.float32]:
        """Return the scores before temperature and softmax, (texts, classes)."""
        if examples.pairs is None:
            return self._classifier.logits(examples.texts)
        return self._classifier.logits(list(zip(examples.texts, examples.pairs, strict=True)))


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


def settings_file(model: Path) -> Path | None:
    """Find the configuration of a model's training: beside it, or above it in its run's directory."""
    return next((file for place in places(model.resolve()) if (file := place / CONFIG_FILE).is_file()), None)


def corpus_key(model: Path) -> str | None:
    """Return the digest of the data and the split that a model was trained with; None where it is not known."""
    file = settings_file(model)
    return None if file is None else recorded_inputs(file.parent).get("texts")


def is_finished(model: Path) -> bool:
    """Say whether a training has ended; an exported model, or one that `peft` wrote, counts as finished."""
    return holds(model, TRAINING_FILE) or (
        is_exported(model) if is_student(model) else not holds(model, TEACHER_MANIFEST)
    )


def load_teacher(path: Path, config: PotstillConfig, corpus: Corpus | None = None) -> tuple[Teacher, PotstillConfig]:
    """Load the teacher at `path`: the best on the validation split of several, or all of them as one.

    `distillation.teachers` decides. A teacher whose training was interrupted is used only if there is no other, with a
    warning. Another warning says that one was tuned with other data than `corpus`, or another split of it.

    Returns:
        The teacher, its classes in the order of `corpus`, with a cache in front of it, and `config` with its settings.

    Raises:
        ArtifactError: There is none, or of several none is finished, or one is damaged.
        SourceError: A backbone can't be found or reached.
    """
    if path.is_file():
        if corpus is None:
            raise ArtifactError(f"{path}: expected a teacher's directory, found a file")
        file = config.teacher if isinstance(config.teacher, FileConfig) else FileConfig(file="")
        file = file.model_copy(update={"file": str(path)})
        answers = FileTeacher(file, config.data, corpus.label_names)
        return together([answers]), config.model_copy(update={"teacher": file})
    directories = _finished_teachers(path) if config.distillation.teachers == "average" else [find_teacher(path)]
    key = None if corpus is None else corpus.key()
    for directory in directories:
        if not is_finished(directory):
            warn(f"the training of the teacher in {directory} was interrupted: its best epoch so far is used")
        if key is not None and corpus_key(directory) not in (None, key):
            warn(
                f"the teacher in {directory} was tuned with other data or another split: if it has read texts of the "
                "validation or test split, the students' scores are optimistic"
            )
    teachers = [open_teacher(directory, config.runtime) for directory in directories]
    if "max_length" in config.data.model_fields_set:  # the default is not meant for teachers
        for teacher in teachers:
            teacher.limit_length(config.data.max_length)
    if corpus is not None:
        for teacher in teachers:
            teacher.reorder(corpus.label_names)
        teachers[0].warn_of_cut(corpus.train, remedy="a saved teacher reads no more")
    share_base_weights(teachers)
    settings = teachers[0].known_settings(config.teacher)
    return together(teachers), config.model_copy(update={"teacher": settings})


def find_teacher(path: Path) -> Path:
    """Return the teacher's directory at `path`: itself, or the best in validation of the finished teachers in it.

    Raises:
        ArtifactError: There is none.
    """
    teachers = _finished_teachers(path)
    if len(teachers) == 1:
        return teachers[0]
    return max(teachers, key=lambda directory: float(TrainingRecord.load(directory).best["mcc"]))


def _finished_teachers(path: Path) -> list[Path]:
    """List the teachers whose training has ended, or the only one there is."""
    teachers = [directory for directory in model_directories(path) if is_teacher(directory)]
    if not teachers:
        raise ArtifactError(f"{path}: expected a tuned teacher, found students\n  what to do: `potstill finetune`")
    if len(teachers) == 1:
        return teachers
    finished = [directory for directory in teachers if is_finished(directory)]
    if not finished:
        raise ArtifactError(
            f"{path}: expected a teacher whose training has ended, found {len(teachers)} interrupted ones\n"
            f"  what to do: name one of them, such as {teachers[0]}, or train again"
        )
    if left_out := [str(directory) for directory in teachers if directory not in finished]:
        warn(f"not used, since their training was interrupted: {', '.join(left_out)}")
    return finished


def open_model(
    directory: Path | str, runtime: RuntimeConfig, *, coverage: float | None = None, max_error: float | None = None
) -> SavedModel:
    """Load one saved model, also one of the hub; a student may abstain. See `Classifier.load`.

    Raises:
        ArtifactError: It is missing, incomplete or damaged, or the directory is a run's, of several; or a student can't
            keep to `max_error`.
    """
    found = model_directories(local_model(directory))
    if len(found) > 1:
        raise ArtifactError(
            f"{directory}: expected one model, found {len(found)}\n  what to do: name one of them, such as {found[0]}"
        )
    if is_teacher(found[0]):
        return open_teacher(found[0], runtime)
    return StudentModel(Classifier.load(found[0], coverage=coverage, max_error=max_error))
