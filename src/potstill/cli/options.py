"""Options that several commands share, and what follows from them. Nothing heavy is imported."""

from __future__ import annotations

import difflib
import functools
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

import click

from potstill.predict.wording import printable

if TYPE_CHECKING:
    from potstill.augment.unlabelled import UnlabelledSet
    from potstill.config import PotstillConfig, RuntimeConfig


class Abstention(TypedDict):
    """When a student abstains, as `Classifier.load` takes it."""

    coverage: float | None
    max_error: float | None


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

restart_option = click.option("--restart", is_flag=True, help="Start again instead of resuming an interrupted call.")

unlabelled_option = click.option(
    "--unlabelled-set",
    "unlabelled_path",
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    help="Unlabelled set to learn from as well: what `potstill augment` wrote.",
)


_TIME: Final = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def _seconds(_: click.Context, option: click.Parameter, given: str | None) -> float | None:
    """Read a time with its units, such as 1h30m."""
    if given is None:
        return None
    found = _TIME.fullmatch(given.strip().lower())
    seconds = 0.0
    if found is not None:
        seconds = sum(unit * float(count or 0) for unit, count in zip((3600, 60, 1), found.groups(), strict=True))
    if seconds <= 0:
        hint = f"; {given}m is {given} minutes" if re.fullmatch(r"[1-9]\d*", given) else ""
        raise click.BadParameter(f"expected a time with its unit, such as 90s, 30m or 2h, found {given!r}{hint}")
    return seconds


time_limit_option = click.option(
    "--time-limit",
    metavar="TIME",
    callback=_seconds,
    help="Time that the run may take, such as 90s, 30m or 2h: what does not fit is left out, which the report says. "
    "A resumed run counts the time used before.  [default: none]",
)


def out_option(explanation: str, *, required: bool = False) -> Decorator:
    """Give a command `--out`."""
    path = click.Path(file_okay=False, path_type=Path)
    return click.option("--out", metavar="DIR", type=path, required=required, help=explanation)


class _ModelType(click.Path):
    """A model's directory, or the name of one of the hub, for `predict.hub.local_model`."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from potstill.predict.hub import HubName

        if HubName.parse(value) is not None and not Path(value).exists():
            return value
        return super().convert(value, param, ctx)


MODEL: Final = _ModelType(exists=True, file_okay=False, path_type=Path)

new_directory_option = out_option("Where to write; must be new or empty.", required=True)
"""Gives a command an `--out` that it can't go on in."""


probabilities_option = click.option(
    "--teacher",
    "teacher_source",
    metavar="FILE|URL",
    help="Use another teacher instead of tuning one: probabilities in a file, in any format of the data (texts with a "
    "column for each class, or with a label and its confidence), or a language model behind an OpenAI-compatible "
    "server, which gets your texts: http://localhost:8000/v1 with --teacher-model NAME.",
)
"""Gives a command that makes its own teacher a `--teacher` with the answers of another one."""


def teacher_option(*, required: bool, note: str = "") -> Decorator:
    """Give a command `--teacher`."""
    return click.option(
        "--teacher",
        "teacher_directory",
        required=required,
        metavar="PATH",
        type=click.Path(exists=True, path_type=Path),
        help="Teacher: a directory that `potstill finetune` or `potstill run` wrote, or a file of probabilities (see "
        f"`potstill run --help`).{note}",
    )


def saved_teacher_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that may load a teacher `--teacher-base` and `--teacher-classes`, for `runtime_settings`."""
    classes = "Classes of a teacher that peft wrote, in the order of its logits."
    base = "Where the pretrained model of a saved teacher is now."
    command = click.option("--teacher-classes", metavar="TEXT,…", help=classes)(command)
    return click.option("--teacher-base", metavar="MODEL", help=base)(command)


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that may load a teacher flags of how that is done, for `runtime_settings`."""
    command = saved_teacher_options(command)
    for flag, values in (("--precision", "auto|32-true|bf16-mixed"), ("--device", "auto|cpu|cuda|mps")):
        option = click.option(flag, metavar=values, default="auto", show_default=True, help=f"A teacher's {flag[2:]}.")
        command = option(command)
    return command


def abstention_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--coverage` and `--max-error`, which it takes as `Abstention`."""

    @functools.wraps(command)
    def checked(*args: Any, coverage: float | None, max_error: float | None, **values: Any) -> Any:
        if coverage is not None and max_error is not None:
            raise click.UsageError("give either --coverage or --max-error")
        return command(*args, abstention=Abstention(coverage=coverage, max_error=max_error), **values)

    for flag, kind, text in (
        (
            "--max-error",
            click.FloatRange(0, 1, min_open=True, max_open=True),
            "Let a student abstain so that at most this share of its labels is wrong, with 95 % confidence. An error "
            "says so if the validation split is too small to promise that.",
        ),
        (
            "--coverage",
            click.FloatRange(0, 1, min_open=True),
            "Label about this share of the texts, such as 0.9; a student abstains on those of which it is the least "
            "sure.  [default: 1, or as exported]",
        ),
    ):
        checked = click.option(flag, metavar="SHARE", type=kind, help=text)(checked)
    return checked


def runtime_settings(**values: Any) -> RuntimeConfig:
    """Return how a teacher is to be loaded and to compute; a ConfigError names an unknown value."""
    from potstill.config import PotstillConfig

    classes = values["teacher_classes"]
    return PotstillConfig.build({"runtime": values | {"teacher_classes": classes and classes.split(",")}}).runtime


def read_unlabelled(config: PotstillConfig, path: Path | None) -> UnlabelledSet | None:
    """Read the unlabelled set that `--unlabelled-set` names, and warn where only the configuration wants one."""
    from potstill.augment.unlabelled import UnlabelledSet
    from potstill.console import warn

    if path is not None:
        return UnlabelledSet.load(path)
    if config.augment.wanted(in_pairs=config.data.pair_column is not None):
        warn(
            "the section augment is ignored: build the set with `potstill augment`, then name it with --unlabelled-set"
        )
    return None


_OTHER_NAMES: Final = {"bs": "batch-size", "cuda": "device", "lr": "learning-rate", "model": "backbone"}
"""What other programs call some settings."""


def with_suggestion(error: click.NoSuchOption) -> click.UsageError:
    """Return the error of an unknown option with the options that may be meant."""
    if error.ctx is None:
        return error
    parameters = error.ctx.command.params
    if error.option_name == "--data" and any(one.human_readable_name == "DATA…" for one in parameters):
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
    values = {name: value for name, value in context.params.items() if value is not None}
    flags = {one.name: one.opts[0] for one in context.command.params if isinstance(one, click.Option)}
    names = [name for name in flags if name in values and (name == "config_file" or name.startswith("data__"))]
    arguments = [value for name, value in values.items() if name not in flags]
    arguments = [one for value in arguments for one in (value if isinstance(value, tuple) else (value,))]
    return [*arguments, *(part for name in names for part in (flags[name], values[name]))]


def this_command(out: Path | None = None, arguments: Sequence[str] | None = None) -> str:
    """Return the command line that repeats this command, or goes on with it in `out`; without `--restart`.

    Data from standard input is in `out` then.
    """
    given = sys.argv[1:] if arguments is None else arguments
    pairs = zip(["", *given], given, strict=False)
    kept = [one for before, one in pairs if "--out" not in (before, one.partition("=")[0]) and one != "--restart"]
    if out is not None and "-" in kept:
        from potstill.data.piped import standard_input_in

        kept = [str(standard_input_in(out) or one) if one == "-" else one for one in kept]
    return shlex.join(["potstill", *kept, *([] if out is None else ["--out", str(out)])])
