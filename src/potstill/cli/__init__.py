"""The command line. Each command's module is imported when that command runs, so that `--help` answers at once."""

from __future__ import annotations

import importlib
import io
import signal
import sys
from typing import Any

import click

from potstill.cli.options import this_command, with_suggestion
from potstill.errors import MissingExtraError, PotstillError
from potstill.executor.signals import Stopped
from potstill.predict.wording import printable

_GROUPS = {
    "Make a classifier": {
        "run": ("training", "Train a small classifier from labelled texts, with a report."),
        "data": ("inspect", "Show how a data set is read and split, and what is wrong with it."),
    },
    "Step by step": {
        "finetune": ("training", "Train a teacher: a large pretrained model, tuned with LoRA."),
        "augment": ("training", "Collect unlabelled texts for students to learn from."),
        "distill": ("training", "Train students on the labels and a teacher's probabilities."),
        "train": ("training", "Train the same students on the labels alone (the baselines)."),
        "search": ("search", "Search for better settings of students and distillation."),
    },
    "Use it": {
        "predict": ("predict", "Classify texts with a saved model."),
        "serve": ("serve", "Classify texts over HTTP, with a page to try models."),
        "export": ("export", "Write a student as a small directory to copy anywhere."),
        "push": ("export", "Upload a student to the Hugging Face hub."),
        "merge": ("export", "Write a teacher as a plain transformers model."),
    },
    "Inspect": {
        "evaluate": ("evaluate", "Score saved models on labelled texts."),
        "params": ("inspect", "Show what tuning a backbone trains and costs."),
        "runs": ("manage", "List runs, compare some, or delete them."),
        "cache": ("manage", "Show or clear the cache."),
        "doctor": ("doctor", "Check the installation, or a run or model."),
    },
}
"""The module of each command below `potstill.cli`, and what the list of commands says of it."""
_COMMANDS = {name: command for group in _GROUPS.values() for name, command in group.items()}

_EXTRAS = {
    "train": (
        *("datasets", "filelock", "gguf", "jinja2", "lightning_fabric", "markdown_it"),
        *("matplotlib", "onnx", "pyarrow", "pydantic", "rapidfuzz", "rich", "safetensors", "scipy", "torch"),
        *("transformers", "yaml"),
    ),
    "serve": ("asgi_correlation_id", "fastapi", "prometheus_client", "prometheus_fastapi_instrumentator", "uvicorn"),
    "search": ("optuna", "sqlalchemy"),
    **{name: (name,) for name in ("tensorboard", "mlflow", "wandb")},
}
"""The packages that each extra brings, by import name."""


class _LazyGroup(click.Group):
    """Lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"potstill.cli.{_COMMANDS[cmd_name][0]}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _COMMANDS))
        for title, commands in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, (_, summary) in commands.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="potstill")
def potstill() -> None:
    """Train a text classifier that is small and fast enough to run anywhere.

    Give it texts with labels. Potstill tunes a large pretrained model on them (the teacher), trains small models to
    answer like it (the students), and reports how good each model is.

    \b
      potstill run tickets.csv                     train; the columns are `text` and `label`
      potstill predict runs/NAME --text "Hello"    use what was trained
      potstill COMMAND --help                      explain a command
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; errors that a user can cause are printed without a traceback and end with status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # characters that its encoding lacks are escaped
    try:
        potstill.main(arguments, prog_name="potstill", standalone_mode=False)
    except click.ClickException as error:
        message = io.StringIO()
        (with_suggestion(error) if isinstance(error, click.NoSuchOption) else error).show(message)
        click.echo(printable(message.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        _stop(error.__cause__ or error, arguments)
    except PotstillError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        extra = next((name for name, packages in _EXTRAS.items() if package in packages), None)
        if extra is None:
            raise
        _fail(MissingExtraError(package, extra))


def _stop(error: BaseException, arguments: list[str] | None) -> None:
    """Print what is kept and how to go on; exit as a shell expects it."""
    stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
    message = f"stopped by {'Ctrl-C' if stopped.number == signal.SIGINT else 'SIGTERM'}"
    if stopped.directory is not None:
        kept = stopped.kept or "all that is finished is kept"
        message += f"; {kept}. To resume:\n  {this_command(stopped.directory, arguments)}"
    click.echo(printable(message), err=True)
    sys.exit(stopped.status)


def _fail(error: PotstillError) -> None:
    click.echo(printable(f"error: {error}"), err=True)
    sys.exit(1)
