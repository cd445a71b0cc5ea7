"""`potstill evaluate`: scores of saved models on labelled text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from potstill.cli.settings import COMPUTING, SettingsCommand, with_settings
from potstill.config import PotstillConfig
from potstill.errors import ArtifactError, PotstillError

if TYPE_CHECKING:
    from potstill.data import Corpus, Examples


_EVERYWHERE: Final = ("auto", "cola", "embedded")
"""Data that is on this machine though no file is named."""


@click.command(cls=SettingsCommand)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@with_settings("data", *COMPUTING, defaults={"data.source": "what the first model was trained on, else auto"})
def evaluate(config: PotstillConfig, models: tuple[Path, ...], as_json: bool) -> None:
    """Score saved MODELS (model or run directories) on labelled text.

    Scored is the file of --evaluation-data if one is given; else the whole of --data where that is a file, and the
    held-out part where it is a data set; without these and --config, the held-out part of what the first model was
    trained on, as the settings beside it say (an exported student has none). McNemar's test compares a run's distilled
    students with the baseline of the same seed, and any other model with the first one. Directories that hold a model
    for each of several seeds are compared likewise, by a paired t-test over the seeds that both have.
    """
    from potstill.console import warn
    from potstill.models import corpus_key, is_finished, measure, model_directories, open_model
    from potstill.report.comparison import Comparison, show
    from potstill.report.tables import classes

    directories = [directory for path in models for directory in model_directories(path)]
    if interrupted := ", ".join(str(directory) for directory in directories if not is_finished(directory)):
        warn(f"not finished: {interrupted}; the best epoch so far is scored, and counts in no mean over seeds")
    model = open_model(directories[0], config.runtime)
    names = model.label_names
    own = _own_corpus(directories[0]) if _asks_for_own_data() else None
    if own is not None:
        examples, scored = own.evaluation, _held_out(own)
        key = own.key()
        _warn_of_known(examples, [other for other in directories if corpus_key(other) != key])
    else:
        examples, scored = _examples(config, names)
        _warn_of_known(examples, directories)
    measured = [measure(model, examples)]
    for directory in directories[1:]:
        model = open_model(directory, config.runtime)
        if model.label_names != names:
            raise ArtifactError(
                f"expected models of the same classes, found {classes(names)} in {directories[0]} and "
                f"{classes(model.label_names)} in {directory}\n  what to do: evaluate them one by one"
            )
        measured.append(measure(model, examples))
    comparison = Comparison.of(directories, measured, examples, names)
    if as_json:
        click.echo(json.dumps(comparison.to_json(), indent=2))
    else:
        show(comparison, scored)


def _examples(config: PotstillConfig, label_names: tuple[str, ...]) -> tuple[Examples, str]:
    """Read what is to be scored, and say in words what that is."""
    from potstill.data import load_corpus, read_examples
    from potstill.report.tables import classes

    file = Path(config.data.evaluation or config.data.source).expanduser()
    if file.is_file():
        return read_examples(file, config.data, label_names), f"all of {file}"
    corpus = load_corpus(config.data)
    if not corpus.has_classes(label_names):
        raise ArtifactError(
            f"the model knows the classes {classes(label_names)}, {corpus.name} has {classes(corpus.label_names)}\n"
            f"  what to do: name data of the model's own task with --data"
        )
    return corpus.evaluation, _held_out(corpus)


def _held_out(corpus: Corpus) -> str:
    return f"the held-out part of {corpus.name} ({corpus.source})"


def _asks_for_own_data() -> bool:
    """Say whether neither the command line nor a configuration names what is to be scored.

    Raises:
        click.UsageError: It says how data is read, but not which.
    """
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if given & {"config_file", "data__source", "data__evaluation"}:
        return False
    if unclear := {name for name in given if name.startswith("data__")}:
        flags = ", ".join(option.opts[0] for option in context.command.params if option.name in unclear)
        raise click.UsageError(f"{flags}: expected the data to read so; name it with --data")
    return True


def _own_corpus(model: Path) -> Corpus | None:
    """Read the data that a model was trained on; None where no settings say which that was.

    Raises:
        ArtifactError: It is not what it was, or can't be read.
    """
    from potstill.data import load_corpus
    from potstill.models import corpus_key, settings_file

    if (file := settings_file(model)) is None:
        return None
    found = "it has changed since"
    try:
        corpus = load_corpus(PotstillConfig.load(file).data)
        if corpus_key(model) == corpus.key():
            return corpus
    except PotstillError as error:
        found = str(error).partition("\n")[0]
    raise ArtifactError(
        f"{model}: expected the data that it was trained on, of which the held-out part is scored where none is named; "
        f"found: {found}\n  what to do: name data with --data"
    )


def _warn_of_known(examples: Examples, models: Sequence[Path]) -> None:
    """Warn where what is scored was learnt from, or chosen by; of data on this machine alone: no hub is asked."""
    from potstill.console import silence, warn
    from potstill.data import load_corpus
    from potstill.models import settings_file

    trained: set[tuple[str, str | None]] = set()
    selected: set[tuple[str, str | None]] = set()
    for file in {file for model in models if (file := settings_file(model)) is not None}:
        with suppress(PotstillError), silence():
            data = PotstillConfig.load(file).data
            if data.source in _EVERYWHERE or Path(data.source).expanduser().exists():
                own = load_corpus(data)
                trained.update(own.train.items)
                selected.update(own.selection.items)
    if count := sum(item in trained for item in examples.items):
        warn(
            f"{count:,} of these {len(examples):,} texts trained these models, which flatters the scores; a model "
            "alone, without --data and --config, is scored on the held-out part of its own data"
        )
    elif count := sum(item in selected for item in examples.items):
        warn(
            f"{count:,} of these {len(examples):,} texts chose these models' epochs: recipes can be compared by them, "
            "but the scores flatter"
        )
