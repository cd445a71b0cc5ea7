"""Where labelled text comes from: CoLA, the embedded corpus, files and directories, the Hugging Face hub.

Every source is brought into the same form, `_Found`; what happens then - held-out part, limit, selection split - is the
same for all.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from potstill.config import DataConfig
from potstill.console import warn
from potstill.data.examples import Corpus, Examples
from potstill.data.readers import (
    COLA_COLUMNS,
    COLA_EVALUATION,
    COLA_LABELS,
    COLA_TRAIN,
    SUFFIXES,
    Row,
    check_columns,
    label_names_of,
    named_columns,
    parse_records,
    read_examples,
    read_rows,
    to_examples,
)
from potstill.data.splits import Indices, divide
from potstill.errors import DataError, SourceError

EVALUATION_FRACTION = 0.1
"""Share held out for evaluation where the data has no such part."""
EVALUATION_PARTS = ("test", "dev", "validation")
"""What the held-out part of a directory or hub data set is called; the first one that is there is taken."""
COLA_HUB = "nyu-mll/glue:cola"
COLA_PLACES = "$POTSTILL_DATA, $POTSTILL_DATA/cola, data/cola or ../shared/cola"

_ACCEPTED = (
    "`cola`, `embedded`, `auto`, "
    f"a file ({', '.join(SUFFIXES)}), "
    f"a directory with train{{{','.join(SUFFIXES)}}} or CoLA's {COLA_TRAIN}, "
    "or a data set of the hub as `owner/name` or `owner/name:configuration`"
)
_HUB_NAME = re.compile(r"(?P<path>\w[\w.-]*/\w[\w.-]*)(?::(?P<configuration>[\w.-]+))?", re.ASCII)


_NOTICED: Final = 0.02
"""Share of the texts from which repetition is told: collections have a little, which hardly changes a score. CoLA's
development set has 6 of 527 sentences in common with its training set, 1.1 %."""


@dataclass(frozen=True)
class _Found:
    """A source's data before it is split.

    Attributes:
        name: As in `Corpus`.
        source: As in `Corpus`.
        label_names: As in `Corpus`.
        train: Everything that may be learnt from.
        evaluation: Reads the held-out part if the source has one. Read late, because `--evaluation` may replace a part
            that can't be read at all, such as a competition's test file without labels.
        groups: Examples that must stay together, if there are any: a number per example of `train`.
    """

    name: str
    source: str
    label_names: tuple[str, ...]
    train: Examples
    evaluation: Callable[[], Examples] | None = None
    groups: Indices | None = None


def load_corpus(config: DataConfig) -> Corpus:
    """Find the data that `config.source` names, read it, and split it.

    Where the data has no held-out part, a tenth is set apart first; then `config.limit` is applied to the rest, and
    from what remains the selection split is carved. All three are stratified and depend on `config.split_seed` alone.

    Raises:
        SourceError: The source can't be found or reached.
        DataError: A file can't be read right, or there is too little in it to split.
    """
    found = _find(config)
    source, evaluation = found.source, None
    if config.evaluation is not None:
        source = f"{source}, evaluation from {config.evaluation}"
        evaluation = read_examples(Path(config.evaluation).expanduser(), config, found.label_names)
    elif found.evaluation is not None:
        evaluation = found.evaluation()

    pool = np.arange(len(found.train), dtype=np.int64)
    if evaluation is None:
        pool, held_out = _divide(found, pool, 1 - EVALUATION_FRACTION, config.split_seed)
        evaluation = found.train.take(held_out)
    if config.limit is not None and config.limit < len(pool):
        pool, _ = _divide(found, pool, config.limit / len(pool), config.split_seed)
    train, selection = _divide(found, pool, 1 - config.selection_fraction, config.split_seed)

    missing = np.setdiff1d(found.train.labels, found.train.labels[train])
    if missing.size:
        raise DataError(
            f"of {len(pool)} examples {len(train)} are left for training, none of them for the class "
            f"{found.label_names[missing[0]]!r}",
            file=found.source,
            remedy="add examples, raise --limit if one is given, or lower --selection-fraction",
        )
    corpus = Corpus(
        found.name, source, found.label_names, found.train.take(train), found.train.take(selection), evaluation
    )
    _warn_of_repetition(corpus)
    return corpus


def _warn_of_repetition(corpus: Corpus) -> None:
    """Warn where many evaluation texts are learnt from too, or many training texts have several labels."""
    learnt = Counter(corpus.train.items)
    known = sum(item in learnt for item in corpus.evaluation.items)
    if known > _NOTICED * len(corpus.evaluation):
        warn(
            f"{known:,} of {len(corpus.evaluation):,} evaluation texts are training texts too: scores on them say "
            "nothing of new texts. Leave the duplicates out."
        )
    labelled = set(zip(corpus.train.items, corpus.train.labels.tolist(), strict=True))
    contradictory = sum(count > 1 for count in Counter(item for item, _ in labelled).values())
    if contradictory > _NOTICED * len(learnt):
        warn(f"{contradictory:,} of {len(learnt):,} training texts have several labels")


def _divide(found: _Found, pool: Indices, share: float, seed: int) -> tuple[Indices, Indices]:
    """Divide the training examples at `pool`; the result holds indices of the same kind."""
    groups = None if found.groups is None else found.groups[pool]
    first, second = divide(found.train.labels[pool], share, seed, groups)
    return pool[first], pool[second]


def _find(config: DataConfig) -> _Found:
    """Resolve `config.source`: names first, then what lies on the disk, then the hub."""
    if config.source == "embedded":
        return _from_grammar()
    if config.source in ("auto", "cola"):
        local = _local_cola()
        if local is not None:
            return _from_cola(local, config)
        return _from_grammar() if config.source == "auto" else _cola_from_hub(config)
    path = Path(config.source).expanduser()
    if path.is_dir():
        return _from_cola(path, config) if (path / COLA_TRAIN).is_file() else _from_directory(path, config)
    if path.exists():
        return _from_files(path.stem, path, None, config)
    hub = _HUB_NAME.fullmatch(config.source)
    if hub is None or _looks_like_path(path):
        raise SourceError(f"there is no data at {config.source!r}\n  what to do: give {_ACCEPTED}")
    return _from_hub(hub["path"], hub["configuration"], config)


def _looks_like_path(path: Path) -> bool:
    """Tell a misspelt path from a hub name: it ends like a file or starts in a directory that is there.

    A hub data set of such a name is still reached by naming its configuration: `owner/name.en:default`.
    """
    return re.fullmatch(r"\.[A-Za-z][A-Za-z0-9]*", path.suffix) is not None or path.parent.is_dir()


def _local_cola() -> Path | None:
    """Find a directory with CoLA's own files."""
    places = [Path("data/cola"), Path("../shared/cola")]
    if root := os.environ.get("POTSTILL_DATA"):
        places = [Path(root), Path(root, "cola"), *places]
    return next((place for place in places if (place / COLA_TRAIN).is_file()), None)


def _from_cola(directory: Path, config: DataConfig) -> _Found:
    """Read CoLA's own files; the in-domain development split is the held-out part."""
    train = directory / COLA_TRAIN
    return _Found(
        name="cola",
        source=str(directory),
        label_names=COLA_LABELS,
        train=read_examples(train, config, COLA_LABELS),
        evaluation=partial(read_examples, directory / COLA_EVALUATION, config, COLA_LABELS),
    )


def _from_directory(directory: Path, config: DataConfig) -> _Found:
    """Read the training file of a directory; the held-out part stands beside it."""
    train = _only_file(directory, "train")
    if train is None:
        raise SourceError(
            f"the directory {str(directory)!r} holds no training data\n"
            f"  what to do: name the file train{' or train'.join(SUFFIXES)}, or give one file's path"
        )
    evaluations = (_only_file(directory, part) for part in EVALUATION_PARTS)
    return _from_files(directory.resolve().name, train, next(filter(None, evaluations), None), config)


def _only_file(directory: Path, stem: str) -> Path | None:
    """Find a part's file, whatever its format; refuse to choose between two."""
    files = [file for suffix in SUFFIXES if (file := directory / f"{stem}{suffix}").is_file()]
    if len(files) > 1:
        raise SourceError(
            f"the directory {str(directory)!r} holds {files[0].name} and {files[1].name}\n"
            "  what to do: remove one, or give one file's path"
        )
    return files[0] if files else None


def _from_files(name: str, train: Path, evaluation: Path | None, config: DataConfig) -> _Found:
    """Read a training file; its labels are the classes."""
    rows = read_rows(train, config)
    names = label_names_of(rows, train)
    return _Found(
        name=name,
        source=str(train if evaluation is None else train.parent),
        label_names=names,
        train=to_examples(rows, names, train),
        evaluation=None if evaluation is None else partial(read_examples, evaluation, config, names),
    )


def _from_grammar() -> _Found:
    """Generate the embedded corpus; a minimal pair is a group."""
    from potstill.data.grammar import Judgement, generate  # only this source needs it

    def examples(judgements: tuple[Judgement, ...]) -> Examples:
        labels = np.array([judgement.label for judgement in judgements], dtype=np.int64)
        return Examples(tuple(judgement.sentence for judgement in judgements), labels)

    train = generate("train")
    _, groups = np.unique([judgement.pair for judgement in train], return_inverse=True)
    return _Found(
        name="embedded",
        source="embedded",
        label_names=COLA_LABELS,
        train=examples(train),
        evaluation=lambda: examples(generate("heldout")),
        groups=groups,
    )


def _cola_from_hub(config: DataConfig) -> _Found:
    """Read CoLA as GLUE has it, whose validation split joins in-domain and out-of-domain sentences."""
    path, configuration = COLA_HUB.split(":")
    try:
        return _from_hub(path, configuration, config.model_copy(update=dict(COLA_COLUMNS)))
    except SourceError as error:
        raise SourceError(
            f"CoLA is neither here nor within reach: {error}\n  or: put {COLA_TRAIN} and {COLA_EVALUATION} into one of "
            f"{COLA_PLACES}, or use `embedded`"
        ) from error


def _from_hub(path: str, configuration: str | None, config: DataConfig) -> _Found:
    """Load a data set of the Hugging Face hub, from its cache where it is there."""
    import datasets  # takes a second, and only this source needs it

    from potstill.hub import hub_answers

    if not hub_answers():
        datasets.config.HF_HUB_OFFLINE = True  # its cache may have the data; else it says so at once

    name = path if configuration is None else f"{path}:{configuration}"
    try:
        parts = datasets.load_dataset(path, configuration)
    except Exception as error:  # datasets, huggingface_hub, httpx and fsspec share no base class
        raise SourceError(
            f"{name!r} is no local file, and the hub does not give it: {error}\n"
            "  what to do: check the name and the network, or give a local file or directory"
        ) from error
    if "train" not in parts:
        raise SourceError(
            f"the hub data set {name!r} has no part 'train'; its parts are {', '.join(parts)}\n"
            "  what to do: save the part you want as a Parquet file and give its path"
        )
    source = f"Hugging Face hub, {name}"
    rows = _hub_rows(parts["train"], config, f"{source}, train")
    known = label_names_of(rows, source)
    names = tuple(getattr(parts["train"].features[config.label_column], "names", known))
    evaluation = next((part for part in EVALUATION_PARTS if part in parts and _has_labels(parts[part], config)), None)

    def read_evaluation() -> Examples:
        file = f"{source}, {evaluation}"
        return to_examples(_hub_rows(parts[evaluation], config, file), names, file)

    return _Found(
        name=name,
        source=source,
        label_names=names,
        train=to_examples(rows, names, source),
        evaluation=None if evaluation is None else read_evaluation,
    )


def _has_labels(part: Any, config: DataConfig) -> bool:
    """Tell whether a part of a hub data set is labelled; GLUE's test parts hold -1 throughout."""
    return config.label_column in part.column_names and part.unique(config.label_column) != [-1]


def _hub_rows(part: Any, config: DataConfig, file: str) -> list[Row]:
    """Read a part of a hub data set; numbers that stand for named classes become the names."""
    check_columns(part.column_names, config, file)
    part = part.select_columns(list(named_columns(config).values()))
    names = getattr(part.features[config.label_column], "names", None)

    def named(record: dict[str, Any]) -> dict[str, Any]:
        label = record[config.label_column]
        if names is None or label is None:
            return record
        # -1 is the hub's sign for a label that is withheld.
        return record | {config.label_column: names[label] if label >= 0 else None}

    return parse_records(((row, named(record)) for row, record in enumerate(part, start=1)), config, file)
