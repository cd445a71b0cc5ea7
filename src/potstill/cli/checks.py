"""Checks of a run or model directory: settings, checksums, which trainings have ended, whether students answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from potstill.errors import ArtifactError, PotstillError, how_to_install
from potstill.predict import Classifier
from potstill.predict.directory import (
    ADAPTER_CONFIG,
    CONFIG_FILE,
    REPORT_FILE,
    TEACHER_MANIFEST,
    TRAINING_FILE,
    StudentFiles,
    holds,
    is_exported,
    is_model,
    is_student,
    models_in,
)
from potstill.store.checksums import has_checksums, listed_files, verify

State = Literal["fine", "absent", "broken"]
"""`absent`: something is missing that not everybody needs."""


class Finding(NamedTuple):
    """One thing that was checked."""

    subject: str
    state: State
    found: str
    remedy: str = ""


def examine_directory(directory: Path) -> Iterator[Finding]:
    """Check a run or model directory.

    Raises:
        ArtifactError: There is neither a run nor a model.
    """
    models = [*([directory] if is_model(directory) else []), *models_in(directory)]
    settings = directory / CONFIG_FILE
    if not models and not settings.is_file():
        raise ArtifactError(
            f"{directory}: expected a run or a model, found neither\n"
            f"  what to do: name what `potstill run`, `finetune`, `distill`, `train` or `export` wrote"
        )
    if settings.is_file():
        yield _checked("settings", lambda: _settings(settings))
    if directory not in models and (has_checksums(directory) or (directory / REPORT_FILE).is_file()):
        yield _checked("the run's files", lambda: f"{len(verify(directory))} files match their checksums")
    for model in models:
        name = "model" if model == directory else str(model.relative_to(directory))
        yield _checked(name, partial(_model, model))
        graph = StudentFiles(model).model
        if is_student(model) and (graph.is_file() or graph.name in listed_files(model)):  # else without a graph
            yield _checked(f"{name}: answers", partial(_answers, model))


def _checked(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, "fine", check())
    except ImportError:
        return Finding(subject, "absent", "not checked", how_to_install("train"))
    except PotstillError as error:
        found, _, remedy = str(error).partition("\n  what to do: ")
        return Finding(subject, "broken", found, remedy)


def _settings(path: Path) -> str:
    from potstill.config import PotstillConfig

    PotstillConfig.load(path)
    return f"{path.name} is valid"


def _model(directory: Path) -> str:
    if not (has_checksums(directory) or is_student(directory) or (directory / TEACHER_MANIFEST).is_file()):
        return f"an adapter that peft wrote ({ADAPTER_CONFIG}): it has no checksums"
    saved = f"{len(verify(directory))} files match their checksums"
    if holds(directory, TRAINING_FILE):
        return f"{saved}; finished"
    return f"{saved}; {'exported' if is_exported(directory) else f'no {TRAINING_FILE}: its training has not ended'}"


def _answers(student: Path) -> str:
    classifier = Classifier.load(student, threads=1)
    texts: list[Any] = [("A text.", "A text.")] if classifier.in_pairs else ["A text."]
    classifier.predict(texts)  # refuses NaN
    return f"one of {', '.join(classifier.label_names)}"
