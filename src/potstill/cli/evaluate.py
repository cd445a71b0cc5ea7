"""`potstill evaluate`: scores of saved models on labelled text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from potstill.cli.options import MODEL, Abstention, abstention_options
from potstill.cli.settings import COMMON, SettingsCommand, given, with_settings
from potstill.config import DataConfig, PotstillConfig
from potstill.errors import ArtifactError, PotstillError, UnpromisedError
from potstill.predict.hub import local_model

if TYPE_CHECKING:
    from potstill.data import Examples
    from potstill.evaluation.measure import SavedModel

_LOCAL: Final = ("builtin", "clinc150", "cola")
"""Data that is on this machine though no file is named."""
_OWN: Final = {f"data.{name}": "as in the first model's training" for name in DataConfig.model_fields}


@click.command(cls=SettingsCommand)
@click.argument("models", nargs=-1, required=True, type=MODEL)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@abstention_options
@with_settings(
    # Saved models have their own lengths.
    *(f"data.{name}" for name in DataConfig.model_fields if name not in ("max_length", "long_texts")),
    *("runtime.device", "runtime.precision", "runtime.teacher_base", "runtime.teacher_classes"),
    defaults=_OWN,
    common=COMMON | {"data.source", "data.test"},
    data_argument=False,
)
def evaluate(config: PotstillConfig, models: tuple[Path | str, ...], as_json: bool, abstention: Abstention) -> None:
    """Score saved MODELS (models or run directories, or owner/name of the Hugging Face hub) on labelled texts.

    By default, `evaluate` uses the test split of the data that the first model was trained on. With --data FILE it uses
    the whole file, with --data and a directory or data set its test split. An exported model has no record of its data:
    give --data.

    McNemar's test compares a run's distilled students with its baselines, and any other model with the first one. A
    paired t-test compares directories with several seeds.

    With --coverage or --max-error, students abstain where they are not sure enough, and their coverage and the accuracy
    of the answers that are given are shown, too.

    \b
      potstill evaluate runs/NAME
      potstill evaluate model other --data new.csv
    """
    from potstill.console import warn
    from potstill.data.labels import positive_index
    from potstill.evaluation.measure import measure
    from potstill.experiment.saved import is_finished, model_directories, open_model
    from potstill.report.comparison import show, to_json
    from potstill.report.tables import classes
    from potstill.teacher.base import Teacher

    directories = [directory for path in models for directory in model_directories(local_model(path))]
    if interrupted := ", ".join(str(directory) for directory in directories if not is_finished(directory)):
        warn(f"not finished: {interrupted}; the best epoch so far is scored, and counts in no mean over seeds")

    def opened(directory: Path) -> SavedModel:
        try:
            return open_model(directory, config.runtime, **abstention)
        except UnpromisedError as error:
            if len(directories) == 1:
                raise
            warn(f"{error}; it answers all texts here")
            return open_model(directory, config.runtime)

    first = opened(directories[0])
    own = _own_settings(directories[0])
    examples, scored = _examples(config, directories, first, own)
    names = first.label_names
    positive = positive_index(config.data.positive_class or (None if own is None else own.positive_class), names)
    measured = {directories[0]: measure(first, examples)}
    for directory in directories[1:]:
        model = opened(directory)
        if isinstance(model, Teacher):
            model.reorder(names)
        if model.label_names != names:
            raise ArtifactError(
                f"expected models of the same classes, found {classes(names)} in {directories[0]} and "
                f"{classes(model.label_names)} in {directory}\n  what to do: evaluate them one by one"
            )
        measured[directory] = measure(model, examples)
    if as_json:
        click.echo(json.dumps({"label_names": names, **to_json(measured, examples)}, indent=2))
    else:
        show(measured, examples, names, scored, positive)


def _own_settings(model: Path) -> DataConfig | None:
    """Return the data settings of a model's training; None where there are none, as in an exported model."""
    from potstill.experiment.saved import settings_file

    file = settings_file(model)
    return None if file is None else PotstillConfig.load(file).data


def _examples(
    config: PotstillConfig, models: Sequence[Path], first: SavedModel, own: DataConfig | None
) -> tuple[Examples, str]:
    """Read what is to be scored, and describe it. Without --config, what no flag says is as in the first training.

    `own` are the settings of that training.

    The first model's classes are put into the order of the data, where they can be.

    Raises:
        ArtifactError: No data is named, and that of the training has changed; or the data has other classes.
    """
    from potstill.data import Examples, load_corpus, read_examples
    from potstill.data.parts import data_files
    from potstill.experiment.saved import corpus_key
    from potstill.report.tables import classes
    from potstill.teacher.base import Teacher

    data, flags = config.data, given()
    is_named = bool(flags & {"config_file", "data__source", "data__test"})
    if own is None and not is_named:
        raise ArtifactError(
            f"{models[0]}: no settings of a training are beside it (an exported model has none), so its data is not "
            "known\n  what to do: name labelled texts with --data"
        )
    if own is not None and "config_file" not in flags:
        values = {name: value for name, value in data.model_dump().items() if f"data__{name}" in flags}
        others = own.model_dump() | (
            {"test": None, "validation": None, "skip_bad_rows": False, "classes": None} if is_named else {}
        )
        data = PotstillConfig.build({"data": others | values}, "the flags given with the model's own settings").data
    tested = data.model_copy(update={"source": data.test}) if data.test else data
    if is_named and (files := data_files(tested)):
        examples = reduce(Examples.joined, (read_examples(file, data, first.label_names) for file in files))
        _warn_of_known(examples, models)
        return examples, f"all of {', '.join(map(str, files))}"
    corpus = load_corpus(data)
    if not is_named and corpus.key() != corpus_key(models[0]):
        raise ArtifactError(
            f"{models[0]}: expected the data that it was trained on, whose test split is scored by default; "
            f"{corpus.source} has changed since, or is read in another way\n  what to do: name data with --data"
        )
    if isinstance(first, Teacher):
        first.reorder(corpus.label_names)
    if not corpus.has_classes(first.label_names):
        raise ArtifactError(
            f"the model knows the classes {classes(first.label_names)}, {corpus.name} has "
            f"{classes(corpus.label_names)}\n  what to do: name data of the model's own task with --data"
        )
    _warn_of_known(corpus.test, [model for model in models if corpus_key(model) != corpus.key()])
    return corpus.test, f"the test split of {corpus.name} ({corpus.source})"


def _warn_of_known(examples: Examples, models: Sequence[Path]) -> None:
    """Warn where texts to be scored trained a model or chose its epoch; data of the hub is not looked at."""
    from potstill.console import silence, warn
    from potstill.data import load_corpus

    trained: set[tuple[str, str | None]] = set()
    selected: set[tuple[str, str | None]] = set()
    for model in models:
        with suppress(PotstillError), silence():
            data = _own_settings(model)
            if data is not None and (
                data.sources[0].partition(":")[0] in _LOCAL or Path(data.sources[0]).expanduser().exists()
            ):
                own = load_corpus(data)
                trained.update(own.train.items)
                selected.update(own.validation.items)
    for known, what in ((trained, "trained these models"), (selected, "chose these models' epochs")):
        if count := sum(item in known for item in examples.items):
            warn(f"{count:,} of these {len(examples):,} texts {what}, so that the scores are optimistic")
            return
