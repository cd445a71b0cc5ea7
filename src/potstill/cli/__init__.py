"""The command line. Each command's module is imported when that command runs, so that `--help` answers at once."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import click

from potstill.cli.options import going_on
from potstill.errors import MissingExtraError, PotstillError
from potstill.interruption import Stopped

_COMMANDS = {
    "run": ("potstill.cli.training", "The whole experiment: teacher, distilled student, baseline, report."),
    "adapt": ("potstill.cli.training", "Tune a backbone as a language model on the task's text."),
    "finetune": ("potstill.cli.training", "Tune a teacher: a pretrained model with LoRA."),
    "transfer": ("potstill.cli.training", "Find, sample and perturb more text for students to learn from."),
    "distill": ("potstill.cli.training", "Train a student on the labels and a teacher's judgement."),
    "search": ("potstill.cli.search", "Search settings of student and distillation."),
    "train": ("potstill.cli.training", "Train the same student on the labels alone (the baseline)."),
    "evaluate": ("potstill.cli.evaluate", "Score saved models on any labelled file."),
    "predict": ("potstill.cli.predict", "Classify texts with a saved model."),
    "serve": ("potstill.cli.serve", "Answer over HTTP, with a page to try models."),
    "export": ("potstill.cli.export", "Write a student as a directory to hand on, with a card."),
    "merge": ("potstill.cli.merge", "Write a teacher as a plain transformers model."),
    "params": ("potstill.cli.inspect", "Show what tuning a backbone trains and costs, by module."),
    "data": ("potstill.cli.inspect", "Show how a data set is read and split."),
    "doctor": ("potstill.cli.doctor", "Check the installation, or a run or model."),
}

_TRAIN_PACKAGES = {
    *("datasets", "filelock", "gguf", "huggingface_hub", "lightning_fabric", "matplotlib", "onnx", "pyarrow"),
    "pydantic",
    *("rapidfuzz", "rich", "safetensors", "scipy", "torch", "transformers", "yaml"),
}
"""What the extra `train` brings, by import name."""
_SERVE_PACKAGES = {"fastapi", "prometheus_client", "uvicorn"}
"""What the extra `serve` brings."""
_SEARCH_PACKAGES = {"optuna", "sqlalchemy"}
"""What the extra `search` brings beside."""


class _LazyGroup(click.Group):
    """Lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="potstill")
def potstill() -> None:
    """Turn labelled text into a classifier small and fast enough to run anywhere.

    A pretrained language model is tuned with LoRA (the teacher) and its judgement is distilled into a small recurrent
    network (the student).

    
    Start here:
      potstill run --config configs/demo.yaml          the whole way, on a bounded part of the data
      potstill run --data reviews.csv                  your own data: columns `text` and `label`
      potstill predict runs/NAME --text "Is it so?"    use the student
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; errors that a user can cause are told without a traceback and end with status 1."""
    try:
        potstill.main(arguments, prog_name="potstill", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        _stop(error.__cause__ or error, sys.argv[1:] if arguments is None else arguments)
    except PotstillError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        extras = {"train": _TRAIN_PACKAGES, "serve": _SERVE_PACKAGES, "search": _SEARCH_PACKAGES}
        extra = next((name for name, packages in extras.items() if package in packages), None)
        if extra is None:
            raise
        _fail(MissingExtraError(package, extra))


def _stop(error: BaseException, arguments: list[str]) -> None:
    """Say what an end on request leaves, and how to go on, where there is a way; exit as a shell expects it."""
    stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
    by = "Ctrl-C" if stopped.number == signal.SIGINT else "SIGTERM"
    if stopped.directory is None:
        click.echo(f"stopped by {by}", err=True)
    else:
        kept = stopped.kept or "all that is finished is kept"
        click.echo(f"stopped by {by}; {kept}. To go on:\n  {going_on(arguments, stopped.directory)}", err=True)
    sys.exit(stopped.status)


def _fail(error: PotstillError) -> None:
    click.echo(f"error: {error}", err=True)
    sys.exit(1)
