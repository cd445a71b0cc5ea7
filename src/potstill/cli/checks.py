"""Checks of a run or model directory: settings, checksums, which trainings have ended, whether students answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from potstill.errors import ArtifactError, PotstillError, how_to_install
from potstill.predict import Classifier
from potstill.predict.directory import (
    ADAPTER_CONFIG,
    CONFIG_FILE,
    LOCK_FILE,
    REPORT_FILE,
    TEACHER_MANIFEST,
    TRAINING_FILE,
    StudentFiles,
    holds,
    is_exported,
    is_model,
    is_student,
    models_in,
    run_files,
)
from potstill.store.checksums import CHECKSUMS_FILE, has_checksums, listed_files, recover, verify, write_checksums

_ABOVE_MODELS: Final = 2
"""A run's directory is at most so far above its models': ROLE/seed-N."""

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
        raise _neither(directory)
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


def _neither(directory: Path) -> ArtifactError:
    return ArtifactError(
        f"{directory}: expected a run or a model, found neither\n"
        f"  what to do: name what `potstill run`, `finetune`, `distill`, `train` or `export` wrote"
    )


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
    if not np.isfinite(classifier.predict_proba(texts)).all():
        raise ArtifactError(f"{student}: its answer is NaN or infinite\n  what to do: train again")
    return f"one of {', '.join(classifier.label_names)}"


def rewrite_checksums(directory: Path) -> list[Path]:
    """Write the checksums of a run, and of every model in it, for the files as they are: after an edit by hand.

    Returns:
        The directories whose checksums were written.

    Raises:
        ArtifactError: There is neither a run nor a model, or a model is incomplete.
        BusyError: A command is at work there.
    """
    with ExitStack() as locks:
        for place in (directory, *directory.absolute().parents[:_ABOVE_MODELS]):
            if (place / LOCK_FILE).is_file():
                from potstill.experiment.run_directory import locked

                locks.enter_context(locked(place))
        recover(directory)
        models = [directory] if is_model(directory) else models_in(directory)
        own = [] if directory in models else run_files(directory)
        if not models and not own:
            raise _neither(directory)
        for model in models:
            write_checksums(model, _model_files(model))
        if own:
            write_checksums(directory, own)
    return [*models, *([directory] if own else [])]


def _model_files(directory: Path) -> Sequence[str]:
    """Name the files that make a model; histories, which its training still extends, are among them when it ends."""
    files = (file.name for file in directory.iterdir() if file.suffix in (".json", ".onnx", ".safetensors"))
    return list(listed_files(directory)) or sorted(
        name for name in files if name != CHECKSUMS_FILE and not name.endswith("checkpoint.safetensors")
    )
