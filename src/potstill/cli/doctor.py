"""`potstill doctor`: is the installation fit, is a directory what was saved."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from potstill.doctor import Finding, examine_directory, examine_installation, seal_as_it_stands

_SIGNS = {"fine": "ok", "absent": "-", "broken": "BROKEN"}


@click.command()
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--seal",
    is_flag=True,
    help="First take the files of DIRECTORY as they stand for right, and write their checksums anew: after an edit by "
    "hand, or for what an older version wrote.",
)
def doctor(directory: Path | None, seal: bool) -> None:
    """Check the installation, or a run or model in DIRECTORY. Exits with 1 where something is broken.

    The installation: packages, cache, backbone, threads, speed of a small matrix product. Of DIRECTORY: every file
    against its checksums, the settings, the lock, which trainings have ended, and whether students answer.
    """
    if seal and directory is None:
        raise click.UsageError("--seal needs a DIRECTORY")
    if directory is not None and seal:
        for sealed in seal_as_it_stands(directory):
            click.echo(f"sealed: {sealed}", err=True)
    findings = list(examine_installation() if directory is None else examine_directory(directory))
    _show(findings)
    if any(finding.state == "broken" for finding in findings):
        sys.exit(1)


def _show(findings: list[Finding]) -> None:
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
    except ImportError:  # prediction alone does not bring it
        for one in findings:
            click.echo(f"{_SIGNS[one.state]:7}{one.subject}: {one.found}" + (f" - {one.remedy}" if one.remedy else ""))
        return
    table = Table("", "", "found", "what to do", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for one in findings:
        table.add_row(
            _SIGNS[one.state], one.subject, one.found, one.remedy, style="red" if one.state == "broken" else ""
        )
    Console(highlight=False, markup=False).print(table)
