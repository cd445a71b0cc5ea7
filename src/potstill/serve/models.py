"""The models that are served: found, opened, ready to answer. Students need no torch."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from potstill.errors import ServeError, UnpromisedError
from potstill.predict import Classifier
from potstill.predict.decision import Threshold, typed_labels
from potstill.predict.directory import LabelType, find_student, is_student, is_teacher, student_roles
from potstill.predict.hub import hub_name, local_model
from potstill.predict.session import available_cores
from potstill.store.checksums import CHECKSUMS_FILE

if TYPE_CHECKING:
    from potstill.config import RuntimeConfig

Text = str | tuple[str, str]
"""A text, or a pair of texts."""

Answer = tuple[npt.NDArray[np.float32], Sequence[bool | None]]
"""Probabilities, (texts, classes), and of each text whether it was cut (None: not known)."""

Kind = Literal["student", "teacher"]

_logger = logging.getLogger("potstill.serve")
_WARM_UP: Final = "A first text, so that no client waits for what happens once."


@dataclass(frozen=True)
class ServedModel:
    """A model, under the name by which requests ask for it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    """Names of the classes."""
    in_pairs: bool
    answer: Callable[[Sequence[Any]], Answer]
    """Answers texts, or pairs where it `in_pairs`."""
    threshold: Threshold = None
    """Which classes the probabilities name; see `predict_class`."""
    digest: str | None = None
    """Changes with the model's files."""
    parallel: int = 1
    """Threads that may ask it at a time."""
    label_type: LabelType = "str"
    min_confidence: float | None = None
    """Below this probability no label is given."""

    @cached_property
    def typed_labels(self) -> tuple[Any, ...]:
        """The labels of the type that the training data's have; see `decision.typed_labels`."""
        return tuple(typed_labels(self.labels, self.label_type).tolist())

    def warm_up(self) -> None:
        """Let what happens at a first call (allocations, choice of kernels) happen now.

        Raises:
            ServeError: The answer holds NaN or infinity.
        """
        probabilities, _ = self.answer([(_WARM_UP, _WARM_UP) if self.in_pairs else _WARM_UP])
        if not np.isfinite(probabilities).all():
            raise ServeError(
                f"expected probabilities from {self.name}, found {probabilities.tolist()}\n"
                "  what to do: save or train the model again"
            )


def find_models(arguments: Sequence[str]) -> dict[str, Path]:
    """Return each model's directory by its name.

    Args:
        arguments: Directories, or `NAME=DIRECTORY`; in place of a directory, the name of a model of the hub. A model's
            directory is one model, called as the directory is. A run's directory is its best student of each kind in
            validation, called `distilled`, `ngram` and `baseline`, or `NAME-distilled` and so on; first the one that
            its report recommends.

    Raises:
        ServeError: There is no directory, or no model in it, or two models have one name.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        for given, directory in _models_of(argument).items():
            name = os.fsencode(given).decode("utf-8", "replace")  # a directory's name need not be UTF-8
            if name in found:
                raise ServeError(
                    f"expected models of different names, found {found[name]} and {directory}, both called {name!r}\n"
                    f"  what to do: name them, as in first={found[name]}"
                )
            found[name] = directory
    return found


def _models_of(argument: str) -> dict[str, Path]:
    name, rest = "", argument
    if "=" in argument and not Path(argument).is_dir():
        name, _, rest = argument.partition("=")
    path = local_model(rest)
    if not rest or not path.is_dir() or (rest != argument and not name):
        raise ServeError(
            f"expected a directory, NAME=DIRECTORY, or a model of the hub (owner/name), found {argument!r}\n"
            "  what to do: check the path"
        )
    if is_student(path) or is_teacher(path):
        copied = hub_name(path)
        called = path.resolve().name if copied is None else copied.repository.partition("/")[2]
        return {name or called: path}
    prefix = f"{name}-" if name else ""
    students = {role: find_student(path / role) for role in student_roles(path)}
    if of_a_run := {f"{prefix}{role}": student for role, student in students.items() if is_student(student)}:
        return of_a_run
    if is_student(best := find_student(path)):  # several seeds of one kind of student
        return {name or path.resolve().name: best}
    raise ServeError(
        f"{path}: expected a model's directory, or a run's with students in it, found neither\n"
        "  what to do: name what `potstill run`, `finetune`, `distill` or `train` wrote"
    )


def open_models(
    directories: dict[str, Path],
    threads: int,
    runtime: Callable[[], RuntimeConfig],
    *,
    coverage: float | None = None,
    max_error: float | None = None,
) -> list[ServedModel]:
    """Load all models and let each answer once; students compute with `threads` threads a call.

    `runtime` makes the settings of where teachers compute; it needs their packages, and is called for them alone. With
    `coverage` or `max_error` students abstain, see `Classifier.load`; teachers answer all texts. Of several models, a
    student that can't promise `max_error` is left out, which the log says.

    Raises:
        PotstillError: One is incomplete or damaged, or its packages are missing; or no student promises `max_error`.
    """
    models: list[ServedModel] = []
    refused: UnpromisedError | None = None
    for name, directory in directories.items():
        if is_teacher(directory):
            models.append(_teacher(name, directory, runtime()))
            continue
        try:
            models.append(_student(name, directory, threads, coverage, max_error))
        except UnpromisedError as error:
            refused = error
            _logger.warning("%s is not served: %s", name, error)
    if refused is not None and not any(model.kind == "student" for model in models):
        raise refused
    for model in models:
        model.warm_up()
    return models


def _student(name: str, directory: Path, threads: int, coverage: float | None, max_error: float | None) -> ServedModel:
    one = Classifier.load(directory, threads=threads, coverage=coverage, max_error=max_error)
    parallel = max(1, available_cores() // threads)
    about = (one.label_names, one.in_pairs, one.answer, one.threshold, _digest(directory), parallel, one.label_type)
    return ServedModel(name, "student", *about, min_confidence=one.min_confidence)


def _teacher(name: str, directory: Path, runtime: RuntimeConfig) -> ServedModel:
    from potstill.teacher.saved import open_teacher

    model = open_teacher(directory, runtime)
    about = (model.label_names, model.in_pairs, model.answer, model.threshold)
    return ServedModel(name, "teacher", *about, digest=_digest(directory), label_type=model.label_type)


def _digest(directory: Path) -> str | None:
    """Return a digest of a model's checksums, which change with any of its files."""
    file = directory / CHECKSUMS_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None
