"""The commands that train: run, finetune, augment, distill, train."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from potstill.cli import options
from potstill.cli.settings import COMMON, COMMON_IN_RUN, SettingsCommand, with_settings
from potstill.config import PotstillConfig, RuntimeConfig
from potstill.config.data import STANDARD_INPUT
from potstill.executor.signals import Stopped, handle_signals

if TYPE_CHECKING:
    from potstill.data import Corpus
    from potstill.evaluation import Role
    from potstill.experiment.labelled import DistillationSet
    from potstill.experiment.record import Trained
    from potstill.experiment.run_directory import RunSpec

_AUGMENT = (
    *("augment.files", "augment.words", "augment.spans", "augment.sampled", "augment.perturbed"),
    *("augment.temperature", "augment.top_p", "augment.similarity", "augment.seed"),
)
"""The unlabelled set's settings with flags; those of its language model are left to configuration files."""
_RUNTIME = tuple(f"runtime.{name}" for name in RuntimeConfig.model_fields if not name.startswith("teacher_"))
"""Where nothing saved is loaded, or what the command itself has saved."""
_OF_STUDENTS = ("student", "distillation", "baseline", "search", "data.positive_class")
"""What decides nothing where no student is made and nothing reported: a file for all commands may change there."""
_OF_SETS = ("augment", "baseline", "search", "data.positive_class")
"""The same where students are trained alone: an unlabelled set is named by its file."""


def _resumable(command: Callable[..., None]) -> Callable[..., None]:
    out = options.out_option(
        "Where to write: a new directory, or one where this command was interrupted, to resume it.  "
        "[default: the newest interrupted runs/NAME-*, else runs/NAME-DATE-TIME]"
    )
    return out(options.restart_option(command))


@click.command(cls=SettingsCommand)
@options.probabilities_option
@options.time_limit_option
@_resumable
@with_settings(
    *("preset", "data", "teacher", *_AUGMENT, "student", "distillation", "baseline", *_RUNTIME), common=COMMON_IN_RUN
)
@handle_signals()
def run(config: PotstillConfig, out: Path | None, restart: bool, time_limit: float | None) -> None:
    """Train a small, fast text classifier from labelled texts, and report how good it is.

    First, `run` trains a teacher: a large pretrained language model, tuned on your texts with LoRA (low-rank adapters).
    Then small student models learn from your labels and from the teacher's probabilities. The same students also learn
    from the labels alone (the baselines), to show what the teacher adds. `run` compares all models, and a linear model,
    on texts that none of them has seen.

    Another teacher can be named (--teacher). It can also give the labels, where texts have none (--classes).

    `run` writes the models, plots, report.md and the page report.html to one directory, which `potstill predict` can
    use. After an interruption, repeat the command to resume.

    \b
      potstill run tickets.csv
      potstill run tickets.csv --time-limit 30m
      potstill run reviews.tsv --text-column review --label-column stars --student-seeds 0
      potstill run comments.csv --label-separator "|"    (texts with several labels, such as joy|love)
      potstill run tickets.csv --teacher http://localhost:8000/v1 --teacher-model NAME
      potstill run texts.txt --classes good,bad --teacher http://localhost:8000/v1 --teacher-model NAME
    """
    started = time.time()  # the imports count too
    from potstill.console import SafeConsole
    from potstill.experiment.run import run as run_experiment
    from potstill.predict.directory import PAGE_FILE, REPORT_FILE
    from potstill.report import findings, summary_table

    config_file: Path | None = click.get_current_context().params["config_file"]
    name = None if config_file is None else config_file.stem
    command = "" if STANDARD_INPUT in config.data.sources else options.this_command()  # "": by the saved settings
    summary, directory = run_experiment(
        config, out, name=name, command=command, restart=restart, time_limit=time_limit, started=started
    )
    SafeConsole().print(summary_table(summary))
    found = findings(summary)
    shown = ("**Student to use", "**Problem: no student", "**Time limit")
    for line in (found[0], *(line for line in found[1:] if line.startswith(shown))):
        click.echo(line.replace("**", "").replace("`", ""))
    click.echo(f"report: {directory / REPORT_FILE}, and as a page {directory / PAGE_FILE}")
    options.suggest_next("predict", directory, "FILE")


@click.command(cls=SettingsCommand)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of processes, each with a GPU of its own or its share of the processor, that share each batch. On "
    "several machines, use torchrun: torchrun --nproc-per-node N … -m potstill finetune ….",
)
@_resumable
@with_settings("data", "teacher", *_RUNTIME)
@handle_signals()
def finetune(config: PotstillConfig, out: Path | None, restart: bool, devices: int) -> None:
    """Train a teacher: a pretrained language model, tuned on labelled texts with LoRA adapters.

    The teacher is accurate, but large and slow; `potstill distill` trains small students with it. With several --seeds,
    each teacher gets a directory seed-N.
    """
    from potstill.console import silence
    from potstill.data import load_corpus
    from potstill.experiment.run_directory import run_directory
    from potstill.experiment.stages import finetune as finetune_teacher
    from potstill.teacher.registry import teacher_class
    from potstill.teacher.transformer import transformer_settings
    from potstill.training import parallel
    from potstill.training.compute import make_fabric

    if (devices > 1 or parallel.is_launched()) and STANDARD_INPUT in config.data.sources:
        raise click.UsageError("each of several processes reads the data: put it into a file")
    device = make_fabric(config.runtime).device.type
    with parallel.joined(device):
        if parallel.rank():
            _help_to_finetune(config)
            return
        is_parent = devices > 1 and not parallel.is_launched()
        with silence() if is_parent else nullcontext():
            corpus = load_corpus(config.data)
        teacher_class(config.teacher.kind).check(config.teacher)
        if is_parent:
            transformer_settings(config)  # no other kind is trained
            parallel.check_devices(devices, device)
            parallel.launch(devices, sys.argv[1:])
        free = ("augment", *_OF_STUDENTS)
        spec = _run_spec("finetune", f"{corpus.name}-teacher", config, corpus, config.teacher.seeds, free)
        with run_directory(spec, out, restart=restart) as directory:
            for seed, target in _targets(directory, config.teacher.seeds):
                finished = _finished(target, f"teacher {seed}")
                parallel.of_first(finished is not None)  # tells the others whether to leave it out
                _print_score(finished or finetune_teacher(config, corpus, target, seed)[1])
    click.echo(directory)
    options.suggest_next("distill", *options.data_given(), "--teacher", directory)


def _help_to_finetune(config: PotstillConfig) -> None:
    """Compute this process's share of each batch; process 0 writes and prints."""
    from potstill.console import silence
    from potstill.data import load_corpus
    from potstill.experiment.stages import finetune as finetune_teacher
    from potstill.teacher.transformer import transformer_settings
    from potstill.training import parallel

    quiet = config.runtime.model_copy(update={"trackers": ()})
    with silence(), TemporaryDirectory() as place:
        config = config.model_copy(update={"runtime": quiet})
        corpus = load_corpus(config.data)
        try:
            for seed in transformer_settings(config).seeds:
                if not parallel.of_first():
                    finetune_teacher(config, corpus, Path(place, str(seed)), seed)
        except Stopped as stopped:  # process 0 says so
            sys.exit(stopped.status)


@click.command(cls=SettingsCommand)
@options.teacher_option(
    required=False, note=" Its probabilities are stored with the texts.  [default: none; distill computes them]"
)
@options.out_option("Where to write: a new directory, or one to resume in.", required=True)
@with_settings("data", *_AUGMENT, "teacher.backbone", "distillation.teachers", "runtime")
@handle_signals()
def augment(config: PotstillConfig, teacher_directory: Path | None, out: Path) -> None:
    """Collect unlabelled texts. Students learn from the probabilities that the teacher gives them.

    The texts come from files (--unlabelled), from a language model that is tuned on the training texts
    (--sampled), from changing words in the training texts (--perturbed), and from their words and spans (--words,
    --spans; not for pairs of texts). `augment` drops texts that are nearly the same as a validation or test text.
    `potstill distill --unlabelled-set DIR` uses the other texts.

    The file of --config may set how the language model is tuned: `augment.lora` and `augment.training`.
    """
    from potstill.augment.build import files_key
    from potstill.data import load_corpus
    from potstill.experiment.run import unlabelled_set
    from potstill.experiment.run_directory import RunSpec, run_directory
    from potstill.experiment.saved import load_teacher

    if not config.augment.wanted(in_pairs=config.data.pair_column is not None):
        sources = "--unlabelled, --sampled, --perturbed, or for single texts --words or --spans"
        raise click.UsageError(f"name what to build the set from: {sources}")
    corpus = load_corpus(config.data)
    inputs = {"texts": corpus.key(), "unlabelled files": files_key(config)}
    # Never finished: another teacher may label the set, or the same one again, which is done at once.
    spec = RunSpec("augment", out.name, config, inputs, lambda _: False, free=_OF_STUDENTS)
    with run_directory(spec, out):
        teacher = None if teacher_directory is None else load_teacher(teacher_directory, config, corpus)[0]
        unlabelled_set(config, corpus, teacher, out)
    click.echo(out)
    together = ("--teachers", "average") if config.distillation.teachers == "average" else ()
    labelled_by = ("--teacher", teacher_directory or "TEACHER", *together)
    options.suggest_next("distill", *options.data_given(), *labelled_by, "--unlabelled-set", out)


@click.command(cls=SettingsCommand)
@options.teacher_option(required=True)
@options.unlabelled_option
@_resumable
@with_settings("data", "student", "distillation", "runtime")
@handle_signals()
def distill(
    config: PotstillConfig, teacher_directory: Path, unlabelled_path: Path | None, out: Path | None, restart: bool
) -> None:
    """Train small student models from labelled texts and a teacher's probabilities (knowledge distillation).

    The loss is alpha * CE + (1 - alpha) * T^2 * KL(teacher || student), with temperature T. The teacher labels each
    text once: Potstill keeps its logits in a cache.

    \b
      potstill finetune tickets.csv --out teacher
      potstill distill tickets.csv --teacher teacher --out student
    """
    from potstill.data import load_corpus
    from potstill.experiment.labelled import check_distillation, label
    from potstill.experiment.run import input_keys
    from potstill.experiment.run_directory import run_directory
    from potstill.experiment.saved import load_teacher
    from potstill.student.embeddings import check_embeddings

    corpus = load_corpus(config.data)
    unlabelled = options.read_unlabelled(config, unlabelled_path)
    teacher, config = load_teacher(teacher_directory, config, corpus)
    check_distillation(config, with_unlabelled=unlabelled is not None)
    check_embeddings(config)
    spec = _run_spec("distill", f"{corpus.name}-distilled", config, corpus, config.student.seeds)
    # The teacher's key holds all that decides its answers: its base may be elsewhere now.
    spec = replace(spec, inputs=spec.inputs | input_keys(teacher, unlabelled), free=(*spec.free, "teacher"))
    with run_directory(spec, out, restart=restart) as directory:
        _train_students("distilled", directory, config, corpus, label(config, corpus, teacher, unlabelled))


@click.command(cls=SettingsCommand)
@_resumable
@with_settings(*("data", "student", "teacher.backbone", *_RUNTIME), common=COMMON - {"teacher.backbone"})
@handle_signals()
def train(config: PotstillConfig, out: Path | None, restart: bool) -> None:
    """Train the same small students from the labels alone, without a teacher: the baseline.

    --embedding-init and --pretraining-epochs have no effect here, since the baseline uses nothing from a teacher.
    --backbone has an effect only with --student-tokenizer teacher.
    """
    from potstill.data import load_corpus
    from potstill.experiment.run_directory import run_directory

    corpus = load_corpus(config.data)
    spec = _run_spec("train", f"{corpus.name}-baseline", config, corpus, config.student.seeds)
    with run_directory(spec, out, restart=restart) as directory:
        _train_students("baseline", directory, config, corpus, None)


def _run_spec(
    command: str,
    name: str,
    config: PotstillConfig,
    corpus: Corpus,
    seeds: tuple[int, ...],
    free: tuple[str, ...] = _OF_SETS,
) -> RunSpec:
    """Describe the training of a model per seed; it is finished when each is complete."""
    from potstill.experiment.record import Trained
    from potstill.experiment.run_directory import RunSpec

    def is_finished(directory: Path) -> bool:
        return all(Trained.is_complete(target) for _, target in _targets(directory, seeds))

    return RunSpec(command, name, config, {"texts": corpus.key()}, is_finished, free)


def _finished(directory: Path, title: str) -> Trained | None:
    """Return the model that an earlier call has finished, if there is one, and say so."""
    from potstill.console import print_line
    from potstill.experiment.record import Trained

    finished = Trained.find(directory)
    if finished is not None:
        print_line(f"finished before: {title}")
    return finished


def _train_students(
    role: Role, directory: Path, config: PotstillConfig, corpus: Corpus, examples: DistillationSet | None
) -> None:
    """Train the students of a command that are not finished, and print what each scores."""
    from potstill.experiment.students import StudentTask, train_students

    targets = _targets(directory, config.student.seeds)
    for seed, target in targets:
        _finished(target, f"{role} {seed}")
    for trained in train_students([StudentTask(role, *target) for target in targets], config, corpus, examples):
        _print_score(trained)
    click.echo(directory)
    options.suggest_next("evaluate", directory)


def _print_score(trained: Trained) -> None:
    from potstill.console import print_line

    best, record = trained.fit.best, trained.record
    score = f"micro-F1 {best['micro_f1']:.3f}" if "micro_f1" in best else f"accuracy {best['accuracy']:.1%}"
    print_line(
        f"{record.role} {record.seed}: MCC {best['mcc']:.3f}, {score} on the validation split, "
        f"after epoch {best['epoch']}"
    )


def _targets(directory: Path, seeds: tuple[int, ...]) -> list[tuple[int, Path]]:
    """Pair each seed with its directory: the given one where there is one seed only."""
    return [(seed, directory if len(seeds) == 1 else directory / f"seed-{seed}") for seed in seeds]
