"""`potstill search`: settings of student and distillation, chosen on the validation split."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import click

from potstill.cli import options
from potstill.cli.settings import SettingsCommand, given, with_settings
from potstill.config import PotstillConfig
from potstill.executor.signals import handle_signals


@click.command(cls=SettingsCommand)
@options.teacher_option(required=True)
@options.unlabelled_option
@options.out_option(
    "Where to write: a new directory, or that of a search to continue.  [default: the newest interrupted "
    "runs/NAME-search-*, else runs/NAME-search-DATE-TIME]"
)
@options.restart_option
@with_settings(
    *("data", "search.trials", "search.seed", "search.sampler", "search.storage"),
    *("student", "distillation", "runtime"),
)
@handle_signals()
def search(
    config: PotstillConfig, teacher_directory: Path, unlabelled_path: Path | None, out: Path | None, restart: bool
) -> None:
    """Try many settings of students and distillation, and report the best.

    Each trial trains a student with other settings, with the first of --seeds. The best trial has the highest MCC on
    the validation split; `search` does not use the test split. It writes search.md, trials.csv, and best.yaml for `run`
    and `distill`.

    \b
      potstill search tickets.csv --teacher runs/teacher --out runs/search

    By default `search` tries values of alpha, temperature, learning rate, dropout and the sizes of embedding and hidden
    state. The section `search.space` of --config changes or adds settings, each with a range or choices. A flag such as
    --dropout 0.2 fixes a setting.

    \b
      search:
        trials: 60
        space:
          student.training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
          student.hidden_size: {low: 64, high: 256, step: 64}
          student.cell: {choices: [gru, lstm]}

    Each trial is saved when it ends. Repeat the command to resume an interrupted search. With --out and a larger
    --trials, `search` also continues a finished one. To search with several processes, start the same command in each,
    with the same --storage.
    """
    from potstill.data import load_corpus
    from potstill.experiment.saved import load_teacher
    from potstill.experiment.search import search as search_settings
    from potstill.report.search import REPORT_FILE

    config = _with_fixed(config)
    corpus = load_corpus(config.data)
    unlabelled = options.read_unlabelled(config, unlabelled_path)
    teacher, config = load_teacher(teacher_directory, config, corpus)
    _, directory = search_settings(
        config, corpus, teacher, out, unlabelled=unlabelled, restart=restart, command=options.this_command
    )
    click.echo(f"report: {directory / REPORT_FILE}")
    options.suggest_next("distill", "--config", directory / "best.yaml", "--teacher", teacher_directory)


def _with_fixed(config: PotstillConfig) -> PotstillConfig:
    """Fix the settings to be searched that have a flag on the command line: it would have no effect."""
    values = config.model_dump(mode="json")
    for name in config.search.space:
        if name.replace(".", "__") in given():
            values["search"]["space"][name] = attrgetter(name)(config)
    return PotstillConfig.build(values, "the flags given")
