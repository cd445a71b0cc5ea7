"""`potstill search`: settings of student and distillation, chosen on the selection split."""

from __future__ import annotations

import sys
from operator import attrgetter
from pathlib import Path

import click
from click.core import ParameterSource

from potstill.cli.options import fresh_option, going_on, read_transfer, teacher_option, transfer_option
from potstill.cli.settings import SEARCH, TRAINING, SettingsCommand, with_settings
from potstill.config import PotstillConfig
from potstill.interruption import stoppable_command


@click.command(cls=SettingsCommand)
@teacher_option(required=True)
@transfer_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where to write; a search that was begun there with the same settings goes on.  "
    "[default: the newest runs/NAME-search-* where this search was interrupted, else runs/NAME-search-DATE-TIME]",
)
@fresh_option
@with_settings("data", *SEARCH, "student", "distillation", *TRAINING)
@stoppable_command
def search(
    config: PotstillConfig,
    teacher_directory: Path,
    transfer_path: Path | None,
    out: Path | None,
    fresh: bool,
) -> None:
    """Search settings of student and distillation.

    Each trial distils a student with other settings, from one teacher that judges every text once; the MCC on the
    selection split decides. The evaluation split is not looked at.

    \b
      potstill search --teacher runs/teacher --out runs/search
      potstill search --teacher runs/teacher --out runs/grid --grid

    What is searched stands in --config, by the dotted name of any number, switch or choice of student or distillation.
    Without it that is alpha, temperature, learning rate, dropout and the sizes of embedding and state.

    \b
      search:
        trials: 60
        max_parameters: 1000000
        space:
          student.training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
          student.hidden_size: {low: 64, high: 256, step: 64}
          student.cell: {choices: [gru, lstm]}
          student.dropout: 0.2         # a value alone fixes the setting

    A flag fixes its setting too: --dropout 0.2 is the last line.

    Writes search.md (is alpha 0.5 with T = 2 a good choice?), best.yaml for `run` and `distill`, trials.csv,
    search.json and alpha-temperature.png. Every trial is kept in search.db as it ends: after an interruption of any
    kind the same command goes on, and with its --out an ended search does with a larger --trials.
    """
    from potstill.artifacts import new_run_directory
    from potstill.data import load_corpus
    from potstill.directories import find_unfinished
    from potstill.models import load_teachers
    from potstill.report.search import REPORT_FILE
    from potstill.search import planned
    from potstill.search import search as search_settings
    from potstill.student.model import check_tokenizer

    config = _with_fixed(config)
    corpus = load_corpus(config.data)
    check_tokenizer(config.student)
    transfer = read_transfer(config, transfer_path)
    teachers = load_teachers(teacher_directory, config.runtime, config.distillation.teachers, corpus)
    work = planned(config, corpus, teachers, transfer)
    if fresh:
        directory = new_run_directory(out, work.name)
    else:
        directory = out or find_unfinished(work) or new_run_directory(None, work.name)
    command = going_on(sys.argv[1:], directory)
    search_settings(config, corpus, teachers, directory, transfer=transfer, command=command)
    click.echo(f"report: {directory / REPORT_FILE}")


def _with_fixed(config: PotstillConfig) -> PotstillConfig:
    """Fix what would be searched and has a flag on the command line: a flag that changes nothing would be a trap."""
    context = click.get_current_context()
    values = config.model_dump(mode="json")
    for name in config.search.space:
        if context.get_parameter_source(name.replace(".", "__")) is ParameterSource.COMMANDLINE:
            values["search"]["space"][name] = attrgetter(name)(config)
    return PotstillConfig.build(values, "the flags given")
