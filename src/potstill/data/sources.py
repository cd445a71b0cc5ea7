"""Sources of labelled text: CoLA, the data in the package, files and directories, the Hugging Face hub.

Each is read into the same form, `_Found`, which is then split in the same way.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain, repeat
from pathlib import Path
from typing import Final

import numpy as np

from potstill.config import DataConfig
from potstill.config.data import STANDARD_INPUT
from potstill.console import warn
from potstill.data.encoded import UNLABELLED, class_counts, keys, strata
from potstill.data.examples import Corpus, Examples, check_task
from potstill.data.formats import SUFFIXES
from potstill.data.labels import label_names_of, label_type_of, positive_index
from potstill.data.parts import (
    TEST,
    TRAIN,
    VALIDATION,
    check_part,
    data_files,
    held_out_parts,
    name_of,
    part_files,
    source_with_parts,
    unused_data,
)
from potstill.data.readers import (
    COLA_COLUMNS,
    COLA_EVALUATION,
    COLA_LABELS,
    COLA_TRAIN,
    read_examples,
    read_files,
    to_examples,
)
from potstill.data.splits import Indices, duplicate_groups, normal_item, stratified_split
from potstill.errors import ConfigError, DataError, SourceError
from potstill.predict.directory import LabelType
from potstill.predict.wording import numbered

TEST_FRACTION = 0.1
"""Share of the test split where the data has none."""
COLA_HUB = "nyu-mll/glue:cola"
HUB = "Hugging Face hub, "
"""How `Corpus.source` begins where the data is of the hub."""
COLA_PLACES = "$POTSTILL_DATA, $POTSTILL_DATA/cola, data/cola or ../shared/cola"

_ACCEPTED = (
    "`clinc150`, or some of its domains as `clinc150:home,meta`, `cola`, `builtin`, "
    f"a file ({', '.join(SUFFIXES)}, also packed), "
    f"a directory with train{{{','.join(SUFFIXES)}}} or CoLA's {COLA_TRAIN}, "
    "or a data set of the hub as `owner/name` or `owner/name:configuration`"
)
_CLINC150 = re.compile(r"clinc150(?::(?P<domains>.*))?")
_HUB_NAME = re.compile(r"(?P<path>\w[\w.-]*/\w[\w.-]*)(?::(?P<configuration>[\w.-]+))?", re.ASCII)

_NOTICED: Final = 0.02
"""Share of repeated texts from which there is a warning. (CoLA's development set has 6 of 527 sentences in common with
its training set, 1.1 %.)"""


@dataclass(frozen=True)
class _Found:
    """A source's data before it is split; `Corpus` explains the other fields.

    Attributes:
        train: Everything that may be learnt from.
        test: Reads the test split if there is one. Called late, because `--test-data` may replace a part that can't be
            read at all, such as a competition's test file without labels. `validation` likewise.
        groups: A number per example of `train`; examples of one group stay together. None: those with equal texts.
    """

    name: str
    source: str
    label_names: tuple[str, ...]
    train: Examples
    test: Callable[[], Examples] | None = None
    validation: Callable[[], Examples] | None = None
    groups: Indices | None = None
    label_type: LabelType = "str"


def load_corpus(config: DataConfig, *, with_labels: bool = True) -> Corpus:
    """Find the data that `config.source` names, read it, and split it.

    Where the data has no test split, a tenth becomes it; then `config.max_train_examples` is applied to the rest, of
    which a share becomes the validation split unless the data has one. All three are stratified, keep equal texts
    together, and depend on `config.split_seed` alone. Texts without labels (`config.classes`) are read only without
    `with_labels`, and split at random.

    Raises:
        SourceError: The source can't be found or reached.
        DataError: A file can't be read right, or there is too little in it to split.
        ConfigError: There is no class `config.positive_class`; or there are no labels, and they are needed; or texts
            that come with Potstill are to have several.
    """
    found = _find(config)
    check_task(config, found.train, found.name)
    _check_labels(found, config, with_labels=with_labels)
    source, test = found.source, None
    if config.test is not None:
        source = f"{source}, test from {config.test}"
        test = read_examples(Path(config.test).expanduser(), config, found.label_names)
    elif found.test is not None:
        test = found.test()

    groups = duplicate_groups(found.train.items) if found.groups is None else found.groups

    classes = strata(found.train.labels)

    def split(pool: Indices, share: float) -> tuple[Indices, Indices]:
        first, second = stratified_split(classes[pool], share, config.split_seed, groups[pool])
        if not second.size:
            raise DataError(
                f"there are too few different texts to split: {len(pool)} examples have one text between them",
                file=found.source,
                remedy="add examples with other texts",
            )
        return pool[first], pool[second]

    pool = np.arange(len(found.train), dtype=np.int64)
    if test is None:
        pool, held_out = split(pool, 1 - TEST_FRACTION)
        test = found.train.take(held_out)
    if config.max_train_examples is not None and config.max_train_examples < len(pool):
        pool, _ = split(pool, config.max_train_examples / len(pool))
    train = pool
    if config.validation is not None:
        source = f"{source}, validation from {config.validation}"
        validation = read_examples(Path(config.validation).expanduser(), config, found.label_names)
    elif found.validation is not None:
        validation = found.validation()
    else:
        train, selected = split(pool, 1 - config.validation_fraction)
        validation = found.train.take(selected)

    names, learnt = found.label_names, found.train.take(train)
    known, left = (class_counts(part.labels, len(names)) for part in (found.train, learnt))
    if (missing := np.flatnonzero((known > 0) & (left == 0))).size:
        raise DataError(
            f"of {len(pool)} examples {len(train)} are left for training, none of them for the class "
            f"{names[missing[0]]!r}",
            file=found.source,
            remedy="add examples, raise --max-train-examples if one is given, or lower --validation-fraction",
        )
    positive = positive_index(config.positive_class, names)
    parts = (learnt, validation, test)
    corpus = Corpus(found.name, source, names, *parts, found.label_type, positive, bool(config.classes))
    _warn_of_repetition(corpus)
    return corpus


def _check_labels(found: _Found, config: DataConfig, *, with_labels: bool) -> None:
    if config.classes is None:
        return
    if (found.train.labels != UNLABELLED).any():
        raise ConfigError([f"data.classes: it is for texts without labels, and {found.source} has some; leave it out"])
    if with_labels:
        raise ConfigError(["data.classes: this command needs labels; only `potstill run` works without"])


def _warn_of_repetition(corpus: Corpus) -> None:
    """Warn where many test texts are learnt from too, or many training texts are repeated with other labels."""
    items = list(map(normal_item, corpus.train.items))
    learnt = Counter(items)
    known = sum(normal_item(item) in learnt for item in corpus.test.items)
    if known > _NOTICED * len(corpus.test):
        warn(
            f"{known:,} of {len(corpus.test):,} test texts are training texts too, so that the scores are optimistic; "
            "remove the duplicates"
        )
    labelled = set(zip(items, keys(corpus.train.labels), strict=True))
    contradictory = sum(count > 1 for count in Counter(item for item, _ in labelled).values())
    if contradictory > _NOTICED * len(learnt):
        what = "are repeated with other labels"
        warn(f"{contradictory:,} of {len(learnt):,} training texts {what}")


def _find(config: DataConfig) -> _Found:
    """Resolve `config.source`: names first, then files, then the hub."""
    if not isinstance(config.source, str):
        files = data_files(config)
        more = len(files) - 1
        source = f"{files[0]} and {numbered(more, 'more file')}" if more else str(files[0])
        return _from_files(name_of(files[0]) + (f"-and-{more}-more" if more else ""), source, config, files)
    if config.source == "builtin":
        return _builtin()
    if (named := _CLINC150.fullmatch(config.source)) is not None:
        return _clinc150(config.source, named["domains"])
    if config.source == "cola":
        local = _local_cola()
        return _cola_from_hub(config) if local is None else _from_cola(local, config)
    path = Path(config.source).expanduser()
    if path.is_dir():
        return _from_cola(path, config) if (path / COLA_TRAIN).is_file() else _from_directory(path, config)
    if files := data_files(config):
        path = files[0] if config.source == STANDARD_INPUT else path
        source = str(path) if files == [path] else f"{path} ({len(files):,} files)"
        return _from_files(name_of(path), source, config, files)
    hub = _HUB_NAME.fullmatch(config.source)
    if hub is None or _looks_like_path(path):
        raise SourceError(f"there is no data at {config.source!r}\n  what to do: give {_ACCEPTED}")
    return _from_hub(hub["path"], hub["configuration"], config)


def _looks_like_path(path: Path) -> bool:
    """Tell a misspelt path from a hub name: it ends like a file or starts in a directory that exists.

    A hub data set of such a name is still reached by naming its configuration: `owner/name.en:default`.
    """
    return re.fullmatch(r"\.[A-Za-z][A-Za-z0-9]*", path.suffix) is not None or path.parent.is_dir()


def _local_cola() -> Path | None:
    places = [Path("data/cola"), Path("../shared/cola")]
    if root := os.environ.get("POTSTILL_DATA"):
        places = [Path(root), Path(root, "cola"), *places]
    return next((place for place in places if (place / COLA_TRAIN).is_file()), None)


def _from_cola(directory: Path, config: DataConfig) -> _Found:
    """Read CoLA's own files; the in-domain development part is the test split."""
    train = directory / COLA_TRAIN
    test = partial(read_examples, directory / COLA_EVALUATION, config, COLA_LABELS)
    return _Found("cola", str(directory), COLA_LABELS, read_examples(train, config, COLA_LABELS), test)


def _from_directory(directory: Path, config: DataConfig) -> _Found:
    files = part_files(directory)
    if files.keys().isdisjoint((TRAIN, *TEST, *VALIDATION)) and (shards := unused_data(directory, ())):
        source = f"{directory} ({numbered(len(shards), 'file')})"
        return _from_files(directory.resolve().name, source, config, [directory / name for name in shards])
    if TRAIN not in files:
        raise SourceError(
            f"the directory {str(directory)!r} holds no training data\n"
            f"  what to do: name the file train{' or train'.join(SUFFIXES)}, or give one file's path"
        )
    test, validation = held_out_parts(files, config)
    train, tested, validated = ([] if part is None else files[part] for part in (TRAIN, test, validation))
    for part in (train, tested, validated):
        check_part(part)
    if unused := unused_data(directory, (*train, *tested, *validated)):
        warn(f"the directory {str(directory)!r} holds files that are not used: {', '.join(unused)}")
    source = source_with_parts(str(directory), test, validation)
    return _from_files(directory.resolve().name, source, config, train, tested, validated)


def _from_files(
    name: str,
    source: str,
    config: DataConfig,
    train: Sequence[Path],
    test: Sequence[Path] = (),
    validation: Sequence[Path] = (),
) -> _Found:
    """Read the files of each part; the labels in the training files are the classes."""
    rows = read_files(train, config)
    names = config.classes or label_names_of(chain.from_iterable(rows), train[0])
    encode = partial(to_examples, config=config)

    def read(files: Sequence[Path]) -> Examples:
        return reduce(Examples.joined, (read_examples(file, config, names) for file in files))

    return _Found(
        name=name,
        source=source,
        label_names=names,
        train=reduce(Examples.joined, map(encode, rows, repeat(names), train)),
        test=partial(read, test) if test else None,
        validation=partial(read, validation) if validation else None,
        label_type=label_type_of(chain.from_iterable(rows), names, train[0]),
    )


def _builtin() -> _Found:
    """Read the builtin corpus, which `tools/grammar` has written; a minimal pair is a group."""
    rows = _packed("builtin.csv.gz")
    groups = np.array([int(row["pair"]) for row in rows if row["part"] == "train"], dtype=np.int64)
    return _Found("builtin", "builtin", COLA_LABELS, *_packed_parts(rows, ("0", "1")), groups=groups)


def _clinc150(source: str, chosen: str | None) -> _Found:
    """Read the intents of CLINC150, small variant, of all or some domains; `SOURCES.md` says where they come from.

    Raises:
        SourceError: It has no such domain.
    """
    rows = _packed("clinc150.csv.gz")
    known = {row["domain"] for row in rows}
    domains = known if chosen is None else {domain.strip() for domain in chosen.split(",")}
    if unknown := sorted(domains - known):
        raise SourceError(
            f"clinc150 has no domain {unknown[0]!r}\n  what to do: choose among {', '.join(sorted(known))}"
        )
    rows = [row for row in rows if row["domain"] in domains]
    names = tuple(sorted({row["label"] for row in rows}))
    return _Found("clinc150", source, names, *_packed_parts(rows, names))


def _packed(name: str) -> list[dict[str, str]]:
    with gzip.open(Path(__file__).with_name(name), "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _packed_parts(rows: list[dict[str, str]], labels: Sequence[str]) -> tuple[Examples, Callable[[], Examples]]:
    """Return the training split, and what returns the test split."""
    number = {label: index for index, label in enumerate(labels)}

    def part(name: str) -> Examples:
        chosen = [row for row in rows if row["part"] == name]
        indices = np.array([number[row["label"]] for row in chosen], dtype=np.int64)
        return Examples(tuple(row["text"] for row in chosen), indices)

    return part("train"), partial(part, "test")


def _cola_from_hub(config: DataConfig) -> _Found:
    """Read CoLA as GLUE has it, whose validation split joins in-domain and out-of-domain sentences."""
    path, configuration = COLA_HUB.split(":")
    try:
        return _from_hub(path, configuration, config.model_copy(update=dict(COLA_COLUMNS)))
    except SourceError as error:
        raise SourceError(
            f"CoLA is neither here nor within reach: {error}\n  or: put {COLA_TRAIN} and {COLA_EVALUATION} into one of "
            f"{COLA_PLACES}, or use `builtin`"
        ) from error


def _from_hub(path: str, configuration: str | None, config: DataConfig) -> _Found:
    """Load a data set of the Hugging Face hub, from its cache where it is there."""
    if config.classes:
        raise ConfigError(
            ["data.classes: unlabelled texts are read from files only; save the hub data set as a .txt or .csv file"]
        )
    import datasets  # takes a second, and only this source needs it

    from potstill.data.hub import class_names, has_labels, hub_answers, hub_rows

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
            f"the hub data set {name!r} has no split 'train'; its parts are {', '.join(parts)}\n"
            "  what to do: save the split you want as a Parquet file and give its path"
        )
    source = f"{HUB}{name}"
    rows = hub_rows(parts["train"], config, f"{source}, train")
    known = label_names_of(rows, source)
    encode = partial(to_examples, config=config)
    names = tuple(class_names(parts["train"], config) or known)
    labelled = [part for part in parts if has_labels(parts[part], config)]
    test, validation = held_out_parts(labelled, config)

    def reader(part: str | None) -> Callable[[], Examples] | None:
        file = f"{source}, {part}"
        return (lambda: encode(hub_rows(parts[part], config, file), names, file)) if part else None

    return _Found(
        name=name,
        source=source_with_parts(source, test, validation),
        label_names=names,
        train=encode(rows, names, source),
        test=reader(test),
        validation=reader(validation),
        label_type=label_type_of(rows, names, source),
    )
