"""Several students, trained at once in processes of their own where that pays."""

from __future__ import annotations

import time
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
from potstill.student.ngram import NgramConfig
from potstill.training.compute import available_workers
from potstill.training.deadline import until

_WORTH_PROCESSES: Final = 20_000
"""Texts times epochs from which students are trained in processes of their own: starting these takes seconds."""


@dataclass(frozen=True)
class StudentTask:
    """One student to train.

    Attributes:
        role: Its role.
        seed: Its seed.
        directory: Where it is saved.
        epochs: Epochs in place of `student.training.epochs`.
        ends: By when its training has to end, as `time.time` counts; None: there is no limit.
        seconds: It is left out if less time than this is left when it is to begin; 0: never.
    """

    role: Role
    seed: int
    directory: Path
    epochs: int | None = None
    ends: float | None = None
    seconds: float = 0.0

    @property
    def title(self) -> str:
        """What its step is called."""
        return f"{self.role} {self.seed}"


def roles_of(config: PotstillConfig, *, with_teacher: bool) -> list[Role]:
    """Return the kinds of students that a run trains."""
    has_ngrams = NgramConfig.beside(config.student) is not None
    wanted: dict[Role, bool] = {"distilled": with_teacher, "ngram": has_ngrams, "baseline": True}
    return [role for role, is_wanted in wanted.items() if is_wanted]


def train_students(
    tasks: Sequence[StudentTask],
    config: PotstillConfig,
    corpus: Corpus,
    labelled: DistillationSet | None,
    steps: Steps | None = None,
) -> list[Trained]:
    """Train students, or find them trained, as many at once as there are threads.

    A step of so small a network is too little work for several threads. The result has the order of `tasks`, without
    those for which the time is too short; `labelled` is what distilled students learn from, baselines need none;
    `steps` prints which student begins.

    Raises:
        TrainingError: A training broke down, or its process was killed.
        Stopped: Ctrl-C or SIGTERM; the same call resumes each training from its latest checkpoint.
    """
    texts = len(corpus.train) + (0 if labelled is None else len(labelled.texts))
    executor = make_executor(config.runtime.executor, workers_for(config, len(tasks), texts))
    trained = executor.map(partial(_train_student, config, corpus, labelled, steps), tasks)
    return [one for one in trained if one is not None]


def workers_for(config: PotstillConfig, students: int, texts: int) -> int:
    """Return how many students are trained at once.

    Args:
        config: All settings.
        students: How many there are.
        texts: Texts of a distilled student and of its baseline together.
    """
    is_long = texts * config.student.training.epochs >= _WORTH_PROCESSES and config.runtime.executor != "none"
    return min(students, available_workers(config.runtime)) if is_long else 1


def _train_student(
    config: PotstillConfig,
    corpus: Corpus,
    labelled: DistillationSet | None,
    steps: Steps | None,
    task: StudentTask,
) -> Trained | None:
    if (finished := Trained.find(task.directory)) is not None:
        return finished
    if task.ends is not None and 0 < task.seconds > task.ends - time.time():
        return None
    if steps is not None:
        steps.begin(task.title)
    if task.epochs is not None:
        training = config.student.training.model_copy(update={"epochs": task.epochs})
        config = config.model_copy(update={"student": config.student.model_copy(update={"training": training})})
    if task.role == "ngram" and (beside := NgramConfig.beside(config.student)) is not None:
        config = config.model_copy(update={"student": beside})
    with until(task.ends):
        if task.role == "baseline" or labelled is None:
            return train(config, corpus, task.directory, task.seed, role=task.role)
        return distill(config, corpus, labelled, task.directory, task.seed, role=task.role)
