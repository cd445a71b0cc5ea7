"""Options that several commands share, and what follows from them. Nothing heavy is imported."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from potstill.config import PotstillConfig, RuntimeConfig
    from potstill.transfer.sets import TransferSet

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

fresh_option = click.option("--fresh", is_flag=True, help="Begin anew, although this command was interrupted before.")
"""Gives a command `--fresh`."""

new_directory_option = click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write; must be new or empty.",
)
"""Gives a command an `--out` that it can't go on in."""

transfer_option = click.option(
    "--transfer",
    "transfer_path",
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    help="A transfer set, as `potstill transfer` writes it: more texts to learn the teacher's judgement of.",
)
"""Gives a command `--transfer`; `read_transfer` reads what it names."""


def read_transfer(config: PotstillConfig, path: Path | None) -> TransferSet | None:
    """Read the transfer set that `--transfer` names, and warn where only the configuration wants one."""
    from potstill.console import warn
    from potstill.transfer.sets import TransferSet

    if path is not None:
        return TransferSet.load(path)
    if config.transfer.wanted:
        warn(
            "no transfer set is used, although the configuration has a section transfer: `potstill transfer` builds "
            "the set, --transfer names it"
        )
    return None


def teacher_option(*, required: bool, note: str = "") -> Decorator:
    """Give a command `--teacher`."""
    return click.option(
        "--teacher",
        "teacher_directory",
        required=required,
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help=f"A tuned teacher, or a directory of several (a run's, say): see --teachers.{note}",
    )


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that may load a teacher `--device` and `--precision`; see `runtime_settings`."""
    device = click.option(
        "--device", metavar="NAME", help="Where a teacher computes: auto, cpu, cuda or mps.  [default: auto]"
    )
    precision = click.option(
        "--precision", metavar="NAME", help="A teacher's: auto, 32-true or bf16-mixed.  [default: auto]"
    )
    return device(precision(command))


def runtime_settings(device: str | None, precision: str | None, config: PotstillConfig | None = None) -> RuntimeConfig:
    """Return where a teacher is to compute: the flags given over the configuration over the defaults.

    Raises:
        ConfigError: A flag's value is none.
    """
    from potstill.config import PotstillConfig

    flags = {name: value for name, value in (("device", device), ("precision", precision)) if value is not None}
    values = {} if config is None else config.runtime.model_dump()
    return PotstillConfig.build({"runtime": values | flags}).runtime


def going_on(arguments: Sequence[str], directory: Path) -> str:
    """Return the command line that goes on in `directory` with what was begun with `arguments`."""
    named = any(argument == "--out" or argument.startswith("--out=") for argument in arguments)
    kept = [argument for argument in arguments if argument != "--fresh"]
    return shlex.join(["potstill", *kept, *([] if named else ["--out", str(directory)])])
