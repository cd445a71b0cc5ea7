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
    from potstill.config import DataConfig
    from potstill.data import Corpus, Examples

_LOCAL: Final = ("auto", "cola", "builtin")
"""Data that is on this machine though no file is named."""


@click.command(cls=SettingsCommand)
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@with_settings(
    *("data", *COMPUTING),
    defaults={"data.source": "what the first model was trained on, else auto"}
    | dict.fromkeys(("data.text_column", "data.pair_column", "data.label_column"), "the first model's own"),
    data_argument=False,
)
def evaluate(config: PotstillConfig, models: tuple[Path, ...], as_json: bool) -> None:
    """Score saved MODELS (models or run directories) on labelled texts.

    By default the test part of the data that the first model was trained on is scored. With --data, a file is scored as
    a whole, and a data set's test part. An exported model needs --data.

    McNemar's test compares a run's distilled students with the baseline of the same seed, and any other model with the
    first one. Directories with several seeds are compared by a paired t-test too.

    \b
      potstill evaluate runs/NAME
      potstill evaluate model other --data new.csv
    """
    from potstill.console import warn
    from potstill.evaluation.measure import measure
    from potstill.experiment.saved import corpus_key, is_finished, model_directories, open_model
    from potstill.report.comparison import Comparison, show
    from potstill.report.tables import classes

    directories = [directory for path in models for directory in model_directories(path)]
    if interrupted := ", ".join(str(directory) for directory in directories if not is_finished(directory)):
        warn(f"not finished: {interrupted}; the best epoch so far is scored, and counts in no mean over seeds")
    first = open_model(directories[0], config.runtime)
    names = first.label_names
    if (own := _own_corpus(directories[0])) is not None:
        examples, scored = own.test, _test_part(own)
        _warn_of_known(examples, [other for other in directories if corpus_key(other) != own.key()])
    else:
        examples, scored = _examples(_with_own_columns(config, directories[0]), names)
        _warn_of_known(examples, directories)
    measured = [measure(first, examples)]
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


def _own_settings(model: Path) -> DataConfig | None:
    """Return the data settings of a model's training; None where there are none, as in an exported model."""
    from potstill.experiment.saved import settings_file

    file = settings_file(model)
    return None if file is None else PotstillConfig.load(file).data


def _given() -> set[str]:
    """Return the names of the command's arguments that the user gave."""
    context = click.get_current_context()
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def _own_corpus(model: Path) -> Corpus | None:
    """Read the data that a model was trained on, unless other data is named or there are no settings of its training.

    Raises:
        click.UsageError: The flags say how data is read, but not which.
        ArtifactError: The data is not what it was, or can't be read.
    """
    from potstill.data import load_corpus
    from potstill.experiment.saved import corpus_key

    given = _given()
    if given & {"config_file", "data__source", "data__test"}:
        return None
    if unclear := {name for name in given if name.startswith("data__")}:
        options = click.get_current_context().command.params
        flags = ", ".join(option.opts[0] for option in options if option.name in unclear)
        raise click.UsageError(f"{flags}: these say how data is read; name the data with --data")
    if (settings := _own_settings(model)) is None:
        return None
    found = "it has changed since"
    try:
        corpus = load_corpus(settings)
        if corpus_key(model) == corpus.key():
            return corpus
    except PotstillError as error:
        found = str(error).partition("\n")[0]
    raise ArtifactError(
        f"{model}: expected the data that it was trained on, whose test part is scored by default; found: {found}\n"
        "  what to do: name data with --data"
    )


def _with_own_columns(config: PotstillConfig, model: Path) -> DataConfig:
    """Take the names of columns that are not given from the model's own settings."""
    given = _given()
    if "config_file" in given or (own := _own_settings(model)) is None:
        return config.data
    names = ("text_column", "pair_column", "label_column")
    taken = {name: getattr(own, name) for name in names if f"data__{name}" not in given}
    data = config.data.model_dump() | taken
    return PotstillConfig.build({"data": data}, "the flags given with the model's own settings").data


def _examples(config: DataConfig, label_names: tuple[str, ...]) -> tuple[Examples, str]:
    """Read what is to be scored, and describe it."""
    from potstill.data import load_corpus, read_examples
    from potstill.report.tables import classes

    file = Path(config.test or config.source).expanduser()
    if file.is_file():
        return read_examples(file, config, label_names), f"all of {file}"
    corpus = load_corpus(config)
    if not corpus.has_classes(label_names):
        raise ArtifactError(
            f"the model knows the classes {classes(label_names)}, {corpus.name} has {classes(corpus.label_names)}\n"
            f"  what to do: name data of the model's own task with --data"
        )
    return corpus.test, _test_part(corpus)


def _test_part(corpus: Corpus) -> str:
    return f"the test part of {corpus.name} ({corpus.source})"


def _warn_of_known(examples: Examples, models: Sequence[Path]) -> None:
    """Warn where texts to be scored trained a model or chose its epoch; data of the hub is not looked at."""
    from potstill.console import silence, warn
    from potstill.data import load_corpus

    trained: set[tuple[str, str | None]] = set()
    selected: set[tuple[str, str | None]] = set()
    for model in models:
        with suppress(PotstillError), silence():
            data = _own_settings(model)
            if data is not None and (data.source in _LOCAL or Path(data.source).expanduser().exists()):
                own = load_corpus(data)
                trained.update(own.train.items)
                selected.update(own.validation.items)
    for known, what in ((trained, "trained these models"), (selected, "chose these models' epochs")):
        if count := sum(item in known for item in examples.items):
            warn(f"{count:,} of these {len(examples):,} texts {what}, so that the scores are optimistic")
            return
