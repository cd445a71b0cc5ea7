"""A trained model: its record `training.json`, and the result of its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from potstill.errors import ArtifactError
from potstill.evaluation import ModelResult, Role
from potstill.evaluation.measure import Measurement
from potstill.predict.directory import TRAINING_FILE, holds
from potstill.store.atomic import write_json
from potstill.store.checksums import atomic_save, read
from potstill.student.pretraining import PRETRAINING_CHECKPOINT_FILE
from potstill.training.base import FitResult, Record
from potstill.training.callbacks import HISTORY_FILE, parse_history
from potstill.training.checkpoint import CHECKPOINT_FILE

_CHECKPOINTS: Final = (CHECKPOINT_FILE, PRETRAINING_CHECKPOINT_FILE)


@dataclass(frozen=True)
class TrainingRecord:
    """How a saved model was trained: `training.json` in its directory. `ModelResult` explains the fields.

    It is written when the training ends: a model whose training was interrupted has none.
    """

    role: Role
    seed: int
    description: str
    parameters: int
    trainable_parameters: int
    bytes_on_disk: int
    train_seconds: float
    best: dict[str, Any]

    def save(self, directory: Path) -> None:
        """Write the record, with checksums of it and of the histories beside the model's."""
        with atomic_save(directory, also=[file.name for file in directory.glob("*.jsonl")]) as staged:
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


@dataclass(frozen=True)
class Trained:
    """One model, trained and saved.

    Attributes:
        directory: Where it is.
        record: What it is and how it was trained; beside it as `training.json`.
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
        _remove_checkpoints(directory)  # the process may have been killed between record and removal
        history: tuple[Record, ...] = ()  # of a teacher that needed no training
        if holds(directory, HISTORY_FILE):
            history = parse_history(read(directory, [HISTORY_FILE])[HISTORY_FILE], directory / HISTORY_FILE)
        return cls(directory, record, FitResult(history, record.best, record.train_seconds))

    @classmethod
    def finish(cls, directory: Path, record: TrainingRecord, fit: FitResult) -> Trained:
        """Write the record of a training that has ended, and remove its checkpoints."""
        record.save(directory)
        _remove_checkpoints(directory)
        return cls(directory, record, fit)

    @staticmethod
    def is_complete(directory: Path) -> bool:
        """Say whether a training has ended in `directory`, and its checkpoints are removed."""
        return (directory / TRAINING_FILE).is_file() and not any((directory / name).exists() for name in _CHECKPOINTS)

    def result(self, measured: Measurement) -> ModelResult:
        """Put together what the report says about this model."""
        known = {name: value for name, value in vars(self.record).items() if name != "best"}
        names = ("texts_per_second", "latency_ms", "metrics", "intervals", "calibration", "threshold")
        return ModelResult(
            **known,
            **{name: getattr(measured, name) for name in names},
            validation_mcc=self.fit.best["mcc"],
            best_epoch=self.fit.best["epoch"],
            epochs=len(self.fit.history),
            history=self.fit.history,
        )


def _remove_checkpoints(directory: Path) -> None:
    for name in _CHECKPOINTS:
        (directory / name).unlink(missing_ok=True)
