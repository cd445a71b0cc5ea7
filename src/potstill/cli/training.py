"""The commands that train: run, adapt, finetune, transfer, distill, train."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from potstill.cli.options import fresh_option, read_transfer, teacher_option, transfer_option
from potstill.cli.settings import ADAPTATION, TEACHERS, TRAINING, TRANSFER, SettingsCommand, with_settings
from potstill.config import PotstillConfig
from potstill.interruption import stoppable_command

if TYPE_CHECKING:
    from potstill.data import Corpus
    from potstill.directories import Work
    from potstill.pipeline import Trained

_OF_STUDENTS = ("student", "distillation", "baseline", "search")
"""Sections that decide nothing where no student is made: a file for all commands may change there."""
_OF_SETS = ("transfer", "baseline", "search")
"""Those that decide nothing where students are trained alone: a transfer set is named by its file."""


def _out(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--out` and `--fresh`."""
    out = click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Where to write: new or empty, or where this command was interrupted; there it goes on. What is finished "
        "there is not done again.  "
        "[default: the newest runs/NAME-* where this command was interrupted, else runs/NAME-DATE-TIME]",
    )
    return out(fresh_option(command))


@click.command(cls=SettingsCommand)
@_out
@with_settings("data", "teacher", *TRANSFER, "student", "distillation", "baseline", "runtime")
@stoppable_command
def run(config: PotstillConfig, out: Path | None, fresh: bool) -> None:
    """The whole experiment, in one directory. After an interruption the same command goes on.

    Tunes the teacher with LoRA, builds a transfer set where one is asked for, distils the teacher into students, trains
    the same students on the labels alone, measures all of them on text that none has seen, and writes models,
    histories, plots, summary.json and report.md.
    """
    from rich.console import Console

    from potstill.pipeline import run as run_experiment
    from potstill.report import summary_table
    from potstill.runtime.directory import REPORT_FILE

    config_file: Path | None = click.get_current_context().params["config_file"]
    name = None if config_file is None else config_file.stem
    summary, directory = run_experiment(config, out, name=name, command=_command_line(), fresh=fresh)
    Console().print(summary_table(summary))
    click.echo(f"report: {directory / REPORT_FILE}")


@click.command(cls=SettingsCommand)
@_out
@with_settings("data", *ADAPTATION, "teacher.backbone", "teacher.tokenizer", *TRAINING)
@stoppable_command
def adapt(config: PotstillConfig, out: Path | None, fresh: bool) -> None:
    """Tune a backbone as a language model on a task's text, as a start for teachers of that task.

    Reads the training texts and the unlabelled ones of --transfer-files; labels are not looked at. Writes a plain
    transformers model of full size with its tokenizer, DIR/model, for --backbone in every command. Teachers should be
    tuned with the same settings of data: with another split the backbone has read what they are measured on. Adapters
    and what else belongs to the tuning are settings of --config, transfer.lora and transfer.training.
    """
    from potstill.directories import Work, working_directory
    from potstill.transfer.adaptation import BACKBONE, is_adapted
    from potstill.transfer.adaptation import adapt as adapt_backbone
    from potstill.transfer.build import files_key
    from potstill.transfer.language_model import check_writer

    config, corpus = _with_corpus(config)
    check_writer(config)
    inputs = {"texts": corpus.key(), "transfer files": files_key(config)}
    work = Work("adapt", f"{corpus.name}-backbone", config, inputs, is_adapted, free=_OF_STUDENTS)
    with working_directory(work, out, fresh=fresh) as directory:
        if not is_adapted(directory):
            adapt_backbone(config, corpus, directory)
    click.echo(directory / BACKBONE)


@click.command(cls=SettingsCommand)
@_out
@with_settings("data", "teacher", "runtime")
@stoppable_command
def finetune(config: PotstillConfig, out: Path | None, fresh: bool) -> None:
    """Tune a teacher: a pretrained model, by LoRA or, with --method, as a whole or its head alone.

    Writes what was trained and its history; with several seeds, one directory each.
    """
    from potstill.directories import working_directory
    from potstill.pipeline import finetune as finetune_teacher
    from potstill.teacher import check_sources

    config, corpus = _with_corpus(config)
    check_sources(config.teacher)
    free = ("transfer", *_OF_STUDENTS)
    work = _work("finetune", f"{corpus.name}-teacher", config, corpus, config.teacher.seeds, free)
    with working_directory(work, out, fresh=fresh) as directory:
        for seed, target in _targets(directory, config.teacher.seeds):
            if not _finished(target, f"teacher {seed}"):
                finetune_teacher(config, corpus, target, seed)
    click.echo(directory)


@click.command(cls=SettingsCommand)
@teacher_option(required=False, note="  [default: the set is judged by the one who distils]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    required=True,
    help="Where to write; a set that was begun there with the same settings is resumed.",
)
@with_settings("data", *TRANSFER, "teacher.backbone", "teacher.tokenizer", *TEACHERS, *TRAINING)
@stoppable_command
def transfer(config: PotstillConfig, teacher_directory: Path | None, out: Path) -> None:
    """Build a transfer set: more text for students to learn a teacher's judgement of.

    Reads --transfer-files, samples from the backbone as a language model tuned on the training texts, and perturbs
    training texts; leaves out whatever is like a text of the selection or evaluation split; and writes
    transfer.parquet, where every text stands with its source and, with --teacher, the teacher's logits. The language
    model's own settings (adapters, epochs) are taken from --config, section transfer.
    """
    from potstill.directories import Work, working_directory
    from potstill.models import load_teachers
    from potstill.pipeline import transfer_set
    from potstill.transfer.build import files_key

    if not config.transfer.wanted:
        raise click.UsageError("name what to build the set from: --transfer-files, --sampled or --perturbed")
    config, corpus = _with_corpus(config)
    inputs = {"texts": corpus.key(), "transfer files": files_key(config)}
    # Never finished: another teacher may judge the set, or the same one again, who has nothing to do then.
    work = Work("transfer", out.name, config, inputs, lambda _: False, free=_OF_STUDENTS)
    with working_directory(work, out):
        teachers = None
        if teacher_directory is not None:
            teachers = load_teachers(teacher_directory, config.runtime, config.distillation.teachers, corpus)
        transfer_set(config, corpus, teachers, out)
    click.echo(out)


@click.command(cls=SettingsCommand)
@teacher_option(required=True)
@transfer_option
@_out
@with_settings("data", "student", "distillation", *TRAINING)
@stoppable_command
def distill(
    config: PotstillConfig,
    teacher_directory: Path,
    transfer_path: Path | None,
    out: Path | None,
    fresh: bool,
) -> None:
    """Train students on the labels and a teacher's softened judgement.

    The loss is alpha * CE + (1 - alpha) * T^2 * KL(teacher || student). The teacher judges each text once; its answers
    are kept and used again.
    """
    from potstill.directories import working_directory
    from potstill.models import load_teachers
    from potstill.pipeline import check_distillation, have_judged, input_keys, side_by_side
    from potstill.pipeline import distill as distill_student
    from potstill.student.embeddings import check_embeddings
    from potstill.student.model import check_tokenizer

    config, corpus = _with_corpus(config)
    check_tokenizer(config.student)
    transfer = read_transfer(config, transfer_path)
    teachers = load_teachers(teacher_directory, config.runtime, config.distillation.teachers, corpus)
    config = config.model_copy(update={"teacher": teachers[0].describe(config.teacher)})
    check_distillation(config, corpus, with_transfer=transfer is not None)
    check_embeddings(config.student, config.teacher.backbone)
    work = _work("distill", f"{corpus.name}-distilled", config, corpus, config.student.seeds)
    work = replace(work, inputs=work.inputs | input_keys(teachers, transfer))

    def student(task: tuple[int, Path]) -> Trained:
        seed, target = task
        found = _finished(target, f"distilled {seed}")
        return found or distill_student(config, corpus, teachers, target, seed, transfer=transfer)

    with working_directory(work, out, fresh=fresh) as directory:
        if not work.is_finished(directory):
            have_judged(config, corpus, teachers, transfer)
        side_by_side(student, [*_targets(directory, config.student.seeds)], config, corpus, transfer)
    click.echo(directory)


@click.command(cls=SettingsCommand)
@_out
@with_settings("data", "student", *TRAINING, "teacher.backbone", "teacher.tokenizer")
@stoppable_command
def train(config: PotstillConfig, out: Path | None, fresh: bool) -> None:
    """Train the same students on the labels alone: the baseline.

    They are trained for --epochs; baseline.epochs of a configuration is for `run` alone. A teacher's backbone or
    tokenizer matters only to --student-tokenizer teacher. What else comes from a teacher is left out:
    --embedding-init and --pretraining-epochs count for distilled students alone.
    """
    from potstill.directories import working_directory
    from potstill.pipeline import side_by_side
    from potstill.pipeline import train as train_student
    from potstill.student.model import check_tokenizer

    config, corpus = _with_corpus(config)
    check_tokenizer(config.student)
    work = _work("train", f"{corpus.name}-baseline", config, corpus, config.student.seeds)

    def student(task: tuple[int, Path]) -> Trained:
        seed, target = task
        return _finished(target, f"baseline {seed}") or train_student(config, corpus, target, seed)

    with working_directory(work, out, fresh=fresh) as directory:
        side_by_side(student, [*_targets(directory, config.student.seeds)], config, corpus)
    click.echo(directory)


def _with_corpus(config: PotstillConfig) -> tuple[PotstillConfig, Corpus]:
    """Read the data, and let the settings say which they are where `auto` found them."""
    from potstill.data import load_corpus
    from potstill.pipeline import resolved

    corpus = load_corpus(config.data)
    return resolved(config, corpus), corpus


def _work(
    command: str,
    name: str,
    config: PotstillConfig,
    corpus: Corpus,
    seeds: tuple[int, ...],
    free: tuple[str, ...] = _OF_SETS,
) -> Work:
    """Describe the training of a model per seed; it is finished when each has its record and nothing to remove."""
    from potstill.directories import Work
    from potstill.pipeline import Trained

    def is_finished(directory: Path) -> bool:
        return all(Trained.is_complete(target) for _, target in _targets(directory, seeds))

    return Work(command, name, config, {"texts": corpus.key()}, is_finished, free)


def _finished(directory: Path, title: str) -> Trained | None:
    """Return the model whose training has ended before, if there is one, and tell the user."""
    from potstill.console import print_line
    from potstill.pipeline import Trained

    finished = Trained.find(directory)
    if finished is not None:
        print_line(f"finished before: {title}")
    return finished


def _targets(directory: Path, seeds: tuple[int, ...]) -> Iterator[tuple[int, Path]]:
    """Pair each seed with its directory: the given one where there is one seed only."""
    for seed in seeds:
        yield seed, directory if len(seeds) == 1 else directory / f"seed-{seed}"


def _command_line() -> str:
    """Return the command that repeats this one: without `--out`, where it would be refused."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--fresh"]
    kept = [
        argument
        for number, argument in enumerate(arguments)
        if not argument.startswith("--out=") and "--out" not in (argument, *arguments[max(0, number - 1) : number])
    ]
    return shlex.join(["potstill", *kept])
