"""Several students, trained at once in processes of their own where that pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from potstill.config import PotstillConfig
from potstill.console import Steps
from potstill.data import Corpus
from potstill.evaluation import Role
from potstill.executor import make_executor
from potstill.experiment.labelled import DistillationSet
from potstill.experiment.record import Trained
from potstill.experiment.stages import distill, train
from potstill.training.compute import available_workers

_WORTH_PROCESSES: Final = 20_000
"""Texts times epochs from which students are trained in processes of their own: starting these takes seconds."""


@dataclass(frozen=True)
class StudentTask:
    """One student to train: its role, its seed, where it is saved, and epochs in place of `student.training.epochs`."""

    role: Role
    seed: int
    directory: Path
    epochs: int | None = None


def train_students(
    tasks: Sequence[StudentTask],
    config: PotstillConfig,
    corpus: Corpus,
    labelled: DistillationSet | None,
    steps: Steps | None = None,
) -> list[Trained]:
    """Train students, or find them trained, as many at once as there are threads.

    A step of so small a network is too little work for several threads. The result has the order of `tasks`; `labelled`
    is what distilled students learn from, baselines need none; `steps` prints which student begins.

    Raises:
        TrainingError: A training broke down, or its process was killed.
        Stopped: Ctrl-C or SIGTERM; the same call resumes each training from its latest checkpoint.
    """
    texts = len(corpus.train) + (0 if labelled is None else len(labelled.texts))
    is_long = texts * config.student.training.epochs >= _WORTH_PROCESSES
    workers = min(len(tasks), available_workers(config.runtime)) if is_long else 1
    executor = make_executor(config.runtime.executor, workers)
    return list(executor.map(partial(_train_student, config, corpus, labelled, steps), enumerate(tasks)))


def _train_student(
    config: PotstillConfig,
    corpus: Corpus,
    labelled: DistillationSet | None,
    steps: Steps | None,
    numbered: tuple[int, StudentTask],
) -> Trained:
    number, task = numbered
    if steps is not None:
        steps.begin("students", number, f"{task.role} {task.seed}")
    if (finished := Trained.find(task.directory)) is not None:
        return finished
    if task.epochs is not None:
        training = config.student.training.model_copy(update={"epochs": task.epochs})
        config = config.model_copy(update={"student": config.student.model_copy(update={"training": training})})
    if task.role == "baseline":
        return train(config, corpus, task.directory, task.seed)
    if labelled is None:
        raise ValueError("expected a distillation set for a distilled student, found none")
    return distill(config, corpus, labelled, task.directory, task.seed)
