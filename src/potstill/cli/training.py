"""The commands that train: run, finetune, transfer, distill, train."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from potstill.cli.settings import TRANSFER, SettingsCommand, with_settings
from potstill.config import PotstillConfig

_OUT = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where to write; must be new or empty.  [default: runs/NAME-DATE-TIME]",
)


@click.command(cls=SettingsCommand)
@_OUT
@with_settings("data", "teacher", *TRANSFER, "student", "distillation", "runtime")
def run(config: PotstillConfig, config_file: Path | None, out: Path | None) -> None:
    """The whole experiment, in one new directory.

    Tunes the teacher with LoRA, builds a transfer set where one is asked for, distils the teacher into students, trains
    the same students on the labels alone, measures all of them on text that none has seen, and writes models,
    histories, plots, summary.json and report.md.
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


def teacher_option(*, required: bool, note: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `--teacher`."""
    return click.option(
        "--teacher",
        "teacher_directory",
        required=required,
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help=f"A tuned teacher, or a directory of several (a run's, say): see --teachers.{note}",
    )


transfer_option = click.option(
    "--transfer",
    "transfer_path",
    metavar="PATH",
    type=click.Path(exists=True, path_type=Path),
    help="A transfer set, as `potstill transfer` writes it: more texts to learn the teacher's judgement of.",
)
"""Gives a command `--transfer`."""


@click.command(cls=SettingsCommand)
@teacher_option(required=False, note="  [default: the set is judged by the one who distils]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    required=True,
    help="Where to write; a set that was begun there with the same settings is gone on with.",
)
@with_settings("data", *TRANSFER, "teacher.backbone", "teacher.tokenizer", "distillation.teachers", "runtime")
def transfer(config: PotstillConfig, config_file: Path | None, teacher_directory: Path | None, out: Path) -> None:
    """Build a transfer set: more text for students to learn a teacher's judgement of.

    Reads --transfer-files, samples from the backbone as a language model tuned on the training texts, and perturbs
    training texts; leaves out whatever is like a text of the selection or evaluation split; and writes
    transfer.parquet, where every text stands with its source and, with --teacher, the teacher's logits. The language
    model's own settings (adapters, epochs) are taken from --config, section transfer.
    """
    from potstill.data import load_corpus
    from potstill.models import load_teachers
    from potstill.pipeline import transfer_set

    if not config.transfer.wanted:
        raise click.UsageError("name what to build the set from: --transfer-files, --sampled or --perturbed")
    corpus = load_corpus(config.data)
    _resumable_directory(config, out)
    teachers = None
    if teacher_directory is not None:
        teachers = load_teachers(teacher_directory, config.runtime, config.distillation.teachers)
    transfer_set(config, corpus, teachers, out)
    click.echo(out)


@click.command(cls=SettingsCommand)
@teacher_option(required=True)
@transfer_option
@_OUT
@with_settings("data", "student", "distillation", "runtime")
def distill(
    config: PotstillConfig,
    config_file: Path | None,
    teacher_directory: Path,
    transfer_path: Path | None,
    out: Path | None,
) -> None:
    """Train students on the labels and a teacher's softened judgement.

    The loss is alpha * CE + (1 - alpha) * T^2 * KL(teacher || student). The teacher judges each text once; its answers
    are kept and used again.
    """
    from potstill.data import load_corpus
    from potstill.models import load_teachers
    from potstill.pipeline import distill as distill_student
    from potstill.student.model import check_tokenizer
    from potstill.transfer.sets import TransferSet

    corpus = load_corpus(config.data)
    check_tokenizer(config.student)
    transfer = None if transfer_path is None else TransferSet.load(transfer_path)
    teachers = load_teachers(teacher_directory, config.runtime, config.distillation.teachers)
    config = config.model_copy(update={"teacher": teachers[0].describe(config.teacher)})
    directory = _new_directory(config, out, f"{corpus.name}-distilled")
    for seed, target in _targets(directory, config.student.seeds):
        distill_student(config, corpus, teachers, target, seed, transfer=transfer)
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


def _resumable_directory(config: PotstillConfig, directory: Path) -> None:
    """Make `directory`, or check that what was begun there was begun with the same settings.

    Raises:
        ArtifactError: It holds something else.
    """
    from potstill.artifacts import new_run_directory
    from potstill.errors import ArtifactError
    from potstill.pipeline import CONFIG_FILE

    known = directory / CONFIG_FILE
    if not known.is_file():
        config.save(new_run_directory(directory, directory.name) / CONFIG_FILE)
    elif PotstillConfig.load(known) != config:
        raise ArtifactError(
            f"{directory} was begun with other settings, see {known}\n  what to do: give the same, or another --out"
        )


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
