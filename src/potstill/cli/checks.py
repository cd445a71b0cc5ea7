"""Checks of a run or model directory: lock, settings, checksums, checkpoints, and whether its students answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from potstill.errors import ArtifactError, PotstillError, how_to_install
from potstill.predict import Classifier
from potstill.predict.directory import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG_FILE,
    LOCK_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    TEACHER_MANIFEST,
    TRAINED_FILE,
    TRAINING_FILE,
    UNLABELLED_FILE,
    StudentFiles,
    holds,
    is_exported,
    is_model,
    is_student,
    is_teacher,
    models_in,
    run_files,
)
from potstill.store.checksums import has_checksums, listed_files, recover, verify, write_checksums

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


def not_checked(subject: str) -> Finding:
    """Return the finding on what only the packages for training can check."""
    return Finding(subject, "absent", "not checked", how_to_install("train"))


def examine_directory(directory: Path) -> Iterator[Finding]:
    """Check a run or model directory.

    Raises:
        ArtifactError: There is neither a run nor a model.
    """
    models = {*([directory] if is_model(directory) else []), *models_in(directory)}
    begun = (place for pattern in ("seed-*", "*/seed-*") for place in directory.glob(pattern) if place.is_dir())
    models.update(begun)
    if not models and not (directory / CONFIG_FILE).is_file():
        raise _neither(directory)
    yield from _lock(directory)
    if (directory / CONFIG_FILE).is_file():
        yield _checked("settings", lambda: _settings(directory / CONFIG_FILE))
    is_reported = all((directory / name).is_file() for name in (SUMMARY_FILE, REPORT_FILE))  # then it has checksums
    if directory not in models and (has_checksums(directory) or is_reported):
        yield _checked("the run's files", lambda: _verified(directory))
    for model in sorted(models):
        yield from _model("model" if model == directory else str(model.relative_to(directory)), model)
    for place in (directory, directory / "augment"):
        if (place / UNLABELLED_FILE).is_file():
            yield _checked("unlabelled set", partial(_unlabelled, place / UNLABELLED_FILE))


def _neither(directory: Path) -> ArtifactError:
    return ArtifactError(
        f"{directory}: expected a run or a model, found neither\n"
        f"  what to do: name what `potstill run`, `finetune`, `distill`, `train` or `export` wrote"
    )


def _checked(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, "fine", check())
    except ImportError:
        return not_checked(subject)
    except PotstillError as error:
        found, _, remedy = str(error).partition("\n  what to do: ")
        return Finding(subject, "broken", found, remedy)


def _lock(directory: Path) -> Iterator[Finding]:
    path = directory / LOCK_FILE
    if not path.is_file():
        return
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        return
    try:
        with FileLock(path, timeout=0):
            yield Finding("lock", "fine", "free")
    except Timeout:
        yield Finding("lock", "fine", f"held: process {path.read_text(encoding='ascii').strip()} is at work here")
    except OSError as error:
        yield Finding("lock", "broken", f"{path.name} can't be opened: {error.strerror}", "check its permissions")


def _settings(path: Path) -> str:
    from potstill.config import PotstillConfig

    PotstillConfig.load(path)
    return f"{path.name} is valid"


def _verified(directory: Path) -> str:
    return f"{len(verify(directory))} files are what was saved"


def _model(name: str, directory: Path) -> Iterator[Finding]:
    for checkpoint in sorted(directory.glob("*checkpoint.safetensors")):
        yield _checked(f"{name}: {checkpoint.name}", partial(_checkpoint, checkpoint))
    if not is_model(directory):
        yield Finding(name, "fine", "begun, nothing saved yet")
        return
    if not has_checksums(directory) and not (directory / TEACHER_MANIFEST).is_file() and is_teacher(directory):
        yield Finding(name, "fine", f"an adapter that peft wrote ({ADAPTER_CONFIG}): it has no checksums")
        return
    yield _checked(name, lambda: f"{_verified(directory)}; {_training(directory)}")
    model = StudentFiles(directory).model
    if is_student(directory) and (model.is_file() or model.name in listed_files(directory)):  # else without a graph
        yield _checked(f"{name}: answers", lambda: _answers(directory))


def _checkpoint(file: Path) -> str:
    from potstill.training.checkpoint import read_checkpoint

    try:
        read_checkpoint(file)
    except FileNotFoundError:
        return "its training has just ended"
    except ValueError:
        raise ArtifactError(
            f"{file} is not what was written\n  what to do: repeat the command, which begins the training anew"
        ) from None
    return "an interrupted training goes on from here"


def _training(directory: Path) -> str:
    if holds(directory, TRAINING_FILE):
        return "finished"
    return "exported" if is_exported(directory) else f"no {TRAINING_FILE}: its training has not ended"


def _answers(student: Path) -> str:
    classifier = Classifier.load(student, threads=1)
    texts: list[Any] = [("A text.", "A text.")] if classifier.in_pairs else ["A text."]
    if not np.isfinite(classifier.predict_proba(texts)).all():
        raise ArtifactError(f"{student}: its answer is NaN or infinite\n  what to do: train again")
    return f"one of {', '.join(classifier.label_names)}"


def _unlabelled(file: Path) -> str:
    from potstill.augment.unlabelled import UnlabelledSet

    return f"{len(UnlabelledSet.load(file)):,} texts are what was saved"


def rewrite_checksums(directory: Path) -> list[Path]:
    """Write the checksums of a run, and of every model in it, for the files as they are: after an edit by hand.

    Returns:
        The directories whose checksums were written.

    Raises:
        ArtifactError: There is neither a run nor a model, or a model is incomplete.
        BusyError: A command is at work there.
    """
    with _locked(directory):
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


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep commands out of a directory, and of the run that it is part of."""
    with ExitStack() as stack:
        for place in (directory, *directory.absolute().parents[:_ABOVE_MODELS]):
            if (place / LOCK_FILE).is_file():
                from potstill.experiment.run_directory import locked

                stack.enter_context(locked(place))
        yield


def _model_files(directory: Path) -> list[str]:
    """Name the files that make a model; histories still grow until its training has ended."""
    student = StudentFiles(directory)
    if known := listed_files(directory):
        files, others = [directory / name for name in known], []
    elif student.manifest.is_file():
        files, others = [*student.needed], [student.weights]
    else:
        files = [directory / TEACHER_MANIFEST]
        others = [directory / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, TRAINED_FILE)]
    if (directory / TRAINING_FILE).is_file():
        others += [directory / TRAINING_FILE, *directory.glob("*.jsonl")]
    return list(dict.fromkeys(file.name for file in (*files, *(other for other in others if other.is_file()))))
