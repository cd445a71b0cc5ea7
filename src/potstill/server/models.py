"""What is served: saved models, named, opened, ready to answer. Students need no torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from potstill.errors import ServeError
from potstill.runtime import Classifier
from potstill.runtime.directory import find_student, is_student, is_teacher

if TYPE_CHECKING:
    from potstill.config import RuntimeConfig

_logger = logging.getLogger("potstill.server")

Text = str | tuple[str, str]
"""A text, or a pair of texts."""

Kind = Literal["student", "teacher"]

_STUDENTS_OF_A_RUN: Final = ("distilled", "baseline")
_WARM_UP: Final = "A first text, so that no client waits for what happens once."


@dataclass(frozen=True)
class ServedModel:
    """A model, under the name that requests call it by."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    reads_pairs: bool
    probabilities: Callable[[Sequence[Any]], npt.NDArray[np.float32]]
    """Texts (pairs where it `reads_pairs`) to (texts, classes). Called from one thread at a time."""
    threshold: float | None = None
    """Which class the probabilities stand for; see `decide`."""

    def warm_up(self) -> None:
        """Let what happens at a first call (allocations, choice of kernels) happen now."""
        self.probabilities([(_WARM_UP, _WARM_UP) if self.reads_pairs else _WARM_UP])


def find_models(arguments: Sequence[str], *, with_teacher: bool = False) -> dict[str, Path]:
    """Find what `MODEL…` on the command line means.

    Args:
        arguments: Directories, or `NAME=DIRECTORY`. A model's directory is one model, called as the directory is. A
            run's directory is its best distilled student and its best baseline in selection, called `distilled` and
            `baseline`, or `NAME-distilled` and so on.
        with_teacher: Take a run's best teacher too. What has none is told in the log.

    Returns:
        Each model's directory by its name.

    Raises:
        ServeError: There is no directory, or no model in it, or two models have one name.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        models = list(_models_of(argument, with_teacher))
        if with_teacher and not any(is_teacher(directory) for _, directory in models):
            _logger.warning("--with-teacher changes nothing for %s: it is no run with a teacher in it", argument)
        for name, directory in models:
            if name in found:
                raise ServeError(
                    f"expected models of different names, found {found[name]} and {directory}, both called {name!r}\n"
                    f"  what to do: name them, as in first={found[name]}"
                )
            found[name] = directory
    return found


def _models_of(argument: str, with_teacher: bool) -> Iterator[tuple[str, Path]]:
    name, path = "", Path(argument)
    if not path.is_dir():
        name, _, rest = argument.partition("=")
        path = Path(rest)
        if not name or not rest or not path.is_dir():
            raise ServeError(
                f"expected a directory, or NAME=DIRECTORY, found {argument!r}\n  what to do: check the path"
            )
    if is_student(path) or is_teacher(path):
        yield name or path.resolve().name, path
        return
    prefix = f"{name}-" if name else ""
    students = {role: find_student(path / role) for role in _STUDENTS_OF_A_RUN}
    of_a_run = [(f"{prefix}{role}", student) for role, student in students.items() if is_student(student)]
    if with_teacher and (path / "teacher").is_dir():
        from potstill.models import find_teacher

        of_a_run.append((f"{prefix}teacher", find_teacher(path / "teacher")))
    if of_a_run:
        yield from of_a_run
    elif is_student(best := find_student(path)):  # several seeds of one kind of student
        yield name or path.resolve().name, best
    else:
        raise ServeError(
            f"{path}: expected a model's directory, or a run's with students in it, found neither\n"
            "  what to do: name what `potstill run`, `finetune`, `distill` or `train` wrote"
        )


def open_models(
    directories: dict[str, Path], threads: int, runtime: Callable[[], RuntimeConfig], *, int8: bool = False
) -> list[ServedModel]:
    """Load all models and let each answer once.

    Args:
        directories: By name.
        threads: Threads of one call of a student.
        runtime: Makes the settings of where teachers compute; called for teachers alone, since it needs their packages.
        int8: Take the students' 8-bit variants.

    Raises:
        PotstillError: One is incomplete or damaged, or its packages are missing.
    """
    models = []
    for name, directory in directories.items():
        if is_teacher(directory):
            model = _teacher(name, directory, runtime())
        else:
            model = _student(name, directory, threads, int8=int8)
        model.warm_up()
        models.append(model)
    return models


def _student(name: str, directory: Path, threads: int, *, int8: bool) -> ServedModel:
    classifier = Classifier.load(directory, threads=threads, int8=int8)
    labels, probabilities = classifier.labels, classifier.predict_proba
    return ServedModel(name, "student", labels, classifier.reads_pairs, probabilities, classifier.threshold)


def _teacher(name: str, directory: Path, runtime: RuntimeConfig) -> ServedModel:
    from potstill.models import TeacherModel
    from potstill.teacher import Teacher

    model = TeacherModel(Teacher.load(directory, runtime))
    return ServedModel(name, "teacher", model.label_names, model.reads_pairs, model.probabilities)
