"""Options that several commands share, and what follows from them. Nothing heavy is imported."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from potstill.predict.wording import printable

if TYPE_CHECKING:
    from potstill.augment.unlabelled import UnlabelledSet
    from potstill.config import PotstillConfig, RuntimeConfig

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

restart_option = click.option("--restart", is_flag=True, help="Start again instead of resuming what was interrupted.")

unlabelled_option = click.option(
    "--unlabelled",
    "unlabelled_path",
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    help="More texts to learn from, as `potstill augment` writes them.",
)


def out_option(explanation: str, *, required: bool = False) -> Decorator:
    """Give a command `--out`."""
    path = click.Path(file_okay=False, path_type=Path)
    return click.option("--out", metavar="DIR", type=path, required=required, help=explanation)


new_directory_option = out_option("Where to write; must be new or empty.", required=True)
"""Gives a command an `--out` that it can't go on in."""


def teacher_option(*, required: bool, note: str = "") -> Decorator:
    """Give a command `--teacher`."""
    return click.option(
        "--teacher",
        "teacher_directory",
        required=required,
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help=f"What `potstill finetune` or `potstill run` wrote.{note}",
    )


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that may load a teacher `--device` and `--precision`; see `runtime_settings`."""
    device = click.option("--device", metavar="auto|cpu|cuda|mps", help="Where a teacher computes.  [default: auto]")
    precision = click.option(
        "--precision", metavar="auto|32-true|bf16-mixed", help="How a teacher computes.  [default: auto]"
    )
    return device(precision(command))


def runtime_settings(device: str | None, precision: str | None) -> RuntimeConfig:
    """Return where a teacher is to compute.

    Raises:
        ConfigError: A flag has an unknown value.
    """
    from potstill.config import PotstillConfig

    flags = {name: value for name, value in (("device", device), ("precision", precision)) if value is not None}
    return PotstillConfig.build({"runtime": flags}).runtime


def read_unlabelled(config: PotstillConfig, path: Path | None) -> UnlabelledSet | None:
    """Read the unlabelled set that `--unlabelled` names, and warn where only the configuration wants one."""
    from potstill.augment.unlabelled import UnlabelledSet
    from potstill.console import warn

    if path is not None:
        return UnlabelledSet.load(path)
    if config.augment.wanted:
        warn("the section augment is ignored: build the set with `potstill augment`, then name it with --unlabelled")
    return None


_OTHER_NAMES: Final = {
    "bs": "batch-size",
    "cuda": "device",
    "epoch": "epochs",
    "lr": "learning-rate",
    "model": "backbone",
    "output": "out",
    "seed": "seeds",
}
"""What other programs call some settings."""


def with_suggestion(error: click.NoSuchOption) -> click.UsageError:
    """Return the error of an unknown option with the options that may be meant."""
    if error.ctx is None:
        return error
    parameters = error.ctx.command.params
    if error.option_name == "--data" and any(one.human_readable_name == "DATA" for one in parameters):
        example = f"{error.ctx.command_path} tickets.csv"
        return click.UsageError(f"No such option: --data. Give the data as the argument: {example}", error.ctx)
    known = [name for one in parameters for name in (*one.opts, *one.secondary_opts) if name.startswith("--")]
    name = error.option_name.lstrip("-").replace("_", "-").lower()
    name = _OTHER_NAMES.get(name, name)
    meant = (
        [one for one in known if one == f"--{name}"]
        or [one for one in known if one.endswith(f"-{name}") or name.endswith(one[1:])]
        or difflib.get_close_matches(f"--{name}", known)
    )
    question = f" Did you mean {' or '.join(meant)}?" if meant else ""
    return click.UsageError(f"No such option: {error.option_name}.{question}", error.ctx)


def suggest_next(*arguments: object) -> None:
    """Say on standard error which command comes next: standard output is for results."""
    click.echo(printable(f"next: {shlex.join(['potstill', *map(str, arguments)])}"), err=True)


def data_given() -> list[object]:
    """Return what this command was given to find and read its data, for the command that comes next."""
    context = click.get_current_context()
    found: list[object] = []
    for parameter in context.command.params:
        name, value = parameter.name or "", context.params.get(parameter.name or "")
        if value is not None and isinstance(parameter, click.Argument):
            found.insert(0, value)
        elif value is not None and (name == "config_file" or name.startswith("data__")):
            found += [parameter.opts[0], value]
    return found


def this_command(out: Path | None = None, arguments: Sequence[str] | None = None) -> str:
    """Return the command line that repeats this command, or goes on with it in `out`; without `--restart`."""
    kept: list[str] = []
    previous = ""
    for argument in sys.argv[1:] if arguments is None else arguments:
        if argument not in ("--restart", "--out") and not argument.startswith("--out=") and previous != "--out":
            kept.append(argument)
        previous = argument
    return shlex.join(["potstill", *kept, *([] if out is None else ["--out", str(out)])])
