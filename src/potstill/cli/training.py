"""The commands that train: run, finetune, distill, train."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from potstill.cli.settings import SettingsCommand, with_settings
from potstill.config import PotstillConfig

_OUT = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where to write; must be new or empty.  [default: runs/NAME-DATE-TIME]",
)


@click.command(cls=SettingsCommand)
@_OUT
@with_settings("data", "teacher", "student", "distillation", "runtime")
def run(config: PotstillConfig, config_file: Path | None, out: Path | None) -> None:
    """The whole experiment, in one new directory.

    Tunes the teacher with LoRA, distils it into students, trains the same students on the labels alone, measures all of
    them on text that none has seen, and writes models, histories, plots, summary.json and report.md.
    """
    from rich.console import Console

    from potstill.pipeline import run as run_experiment
    from potstill.report import summary_table

    name = config_file.stem if config_file is not None else None
    summary, directory = run_experiment(config, out, name=name, command=_command_line())
    Console().print(summary_table(summary))
    click.echo(f"report: {directory / 'report.md'}")


@click.command(cls=SettingsCommand)
@_OUT
@with_settings("data", "teacher", "runtime")
def finetune(config: PotstillConfig, config_file: Path | None, out: Path | None) -> None:
    """Tune a teacher: a pretrained model, by LoRA or, with --method, as a whole or its head alone.

    Writes what was trained and its history; with several seeds, one directory each.
    """
    from potstill.data import load_corpus
    from potstill.pipeline import finetune as finetune_teacher
    from potstill.teacher import check_sources

    corpus = load_corpus(config.data)
    check_sources(config.teacher)
    directory = _new_directory(config, out, f"{corpus.name}-teacher")
    for seed, target in _targets(directory, config.teacher.seeds):
        finetune_teacher(config, corpus, target, seed)
    click.echo(directory)


@click.command(cls=SettingsCommand)
@click.option(
    "--teacher",
    "teacher_directory",
    required=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A tuned teacher, or a directory of several (a run's, say): then the best in selection.",
)
@_OUT
@with_settings("data", "student", "distillation", "runtime")
def distill(config: PotstillConfig, config_file: Path | None, teacher_directory: Path, out: Path | None) -> None:
    """Train students on the labels and a teacher's softened judgement.

    The loss is alpha * CE + (1 - alpha) * T^2 * KL(teacher || student). The teacher judges each text once; its answers
    are kept and used again.
    """
    from potstill.data import load_corpus
    from potstill.models import find_teacher
    from potstill.pipeline import distill as distill_student
    from potstill.student.model import check_tokenizer
    from potstill.teacher import Teacher

    corpus = load_corpus(config.data)
    check_tokenizer(config.student)
    teacher = Teacher.load(find_teacher(teacher_directory), config.runtime)
    config = config.model_copy(update={"teacher": teacher.describe(config.teacher)})
    directory = _new_directory(config, out, f"{corpus.name}-distilled")
    for seed, target in _targets(directory, config.student.seeds):
        distill_student(config, corpus, teacher, target, seed)
    click.echo(directory)


@click.command(cls=SettingsCommand)
@_OUT
@with_settings("data", "student", "runtime", "teacher.backbone", "teacher.tokenizer")
def train(config: PotstillConfig, config_file: Path | None, out: Path | None) -> None:
    """Train the same students on the labels alone: the baseline.

    A teacher's backbone or tokenizer matters only to --student-tokenizer teacher.
    """
    from potstill.data import load_corpus
    from potstill.pipeline import train as train_student
    from potstill.student.model import check_tokenizer

    corpus = load_corpus(config.data)
    check_tokenizer(config.student)
    directory = _new_directory(config, out, f"{corpus.name}-baseline")
    for seed, target in _targets(directory, config.student.seeds):
        train_student(config, corpus, target, seed)
    click.echo(directory)


def _new_directory(config: PotstillConfig, out: Path | None, name: str) -> Path:
    from potstill.artifacts import new_run_directory
    from potstill.pipeline import CONFIG_FILE

    directory = new_run_directory(out, name)
    config.save(directory / CONFIG_FILE)
    return directory


def _targets(directory: Path, seeds: tuple[int, ...]) -> Iterator[tuple[int, Path]]:
    """Pair each seed with its directory: the given one where there is one seed only."""
    for seed in seeds:
        yield seed, directory if len(seeds) == 1 else directory / f"seed-{seed}"


def _command_line() -> str:
    """Return the command that repeats this one: without `--out`, which would be refused."""
    arguments = sys.argv[1:]
    kept = [
        argument
        for number, argument in enumerate(arguments)
        if not argument.startswith("--out=") and "--out" not in (argument, *arguments[max(0, number - 1) : number])
    ]
    return shlex.join(["potstill", *kept])
