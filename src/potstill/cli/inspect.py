"""The commands that look and train nothing: params, data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from potstill.cli.options import data_given, suggest_next
from potstill.cli.settings import SettingsCommand, with_settings
from potstill.config import PotstillConfig
from potstill.errors import DataError
from potstill.predict.decision import named, typed_labels
from potstill.predict.wording import beginning, in_one_line, numbered, printable

if TYPE_CHECKING:
    from rich.table import Table

    from potstill.config import DataConfig
    from potstill.console import SafeConsole
    from potstill.data import Corpus, Examples

_SHOWN_CLASSES = 10
"""Classes of which texts are shown: a screenful."""
_SHOWN_CHARACTERS = 300
"""Of each of these texts."""
_UNLIKELY = "labels that a linear model would not give"
_SHOWN_LABELS = 10
"""Suspicious labels that are shown."""


@click.command(cls=SettingsCommand)
@click.option(
    "--classes", metavar="INT", default=2, show_default=True, type=click.IntRange(min=2), help="Number of classes."
)
@click.option(
    "--random-init",
    is_flag=True,
    help="Take the architecture that --backbone names, as gpt2, with random weights.",
)
@with_settings(*("teacher.backbone", "teacher.method", "teacher.num_layers"), "teacher.lora")
def params(config: PotstillConfig, classes: int, random_init: bool) -> None:
    """Show what tuning a backbone trains, module by module, and what it costs, from the model itself.

    Each row is one module in all blocks; its numbers are sums over the blocks. Operations are those of matrix products,
    per token: 2 per weight forward, 2 more backward, and 2 more for trained weights.

    \b
    The numbers of the reference experiment, without the hub:
      potstill params --backbone gpt2 --random-init --rank 4 --train-layernorm
    Adapters on the last ten blocks only:
      potstill params --target-modules '*.layers.2?.*'
    """
    from potstill.console import SafeConsole
    from potstill.lora.counting import flops_per_token, module_rows, parameter_groups
    from potstill.teacher.backbone.classifier import build_classifier
    from potstill.teacher.transformer import prepare, transformer_settings

    teacher = transformer_settings(config)
    model = build_classifier(teacher.backbone, classes, random_init=random_init, num_layers=teacher.num_layers).model
    prepare(model, teacher)
    console = SafeConsole(highlight=False, markup=False)
    modules = (
        (row.name, " × ".join(map(str, row.shape)), "" if row.rank is None else row.rank, row.parameters, row.trainable)
        for row in module_rows(model)
    )
    console.print(_table(("module", "shape", "rank", "parameters", "trainable"), modules))
    groups = parameter_groups(model)
    parts = ((name, *counts) for name, counts in groups.items())
    console.print(_table(("part", "parameters", "trainable"), parts))
    total, trainable = (sum(counts) for counts in zip(*groups.values(), strict=True))
    weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
    optimizer_bytes = (4 + 4 + 4) * trainable  # the gradient and AdamW's two moments, float32
    forward, training = flops_per_token(model)
    console.print(
        f"{teacher.backbone}, {teacher.method}: {classes} classes\n"
        f"total {total / 1e6:.2f}M, trainable {trainable / 1e6:.2f}M, reduction {100 * (1 - trainable / total):.1f} %\n"
        f"memory: weights {weight_bytes / 1e6:.1f} MB, gradients and AdamW {optimizer_bytes / 1e6:.1f} MB, "
        "activations apart\n"
        f"per token: forward {forward / 1e6:.1f} MFLOP, forward and backward {training / 1e6:.1f} MFLOP"
    )


def _table(headers: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Table:
    from potstill.report.tables import Cell, ResultTable

    def cell(value: object) -> Cell:
        return Cell(f"{value:,}" if isinstance(value, int) else str(value))

    return ResultTable(headers, tuple(tuple(map(cell, row)) for row in rows)).to_rich()


@click.command(cls=SettingsCommand)
@click.option(
    "--write",
    "target",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also write the splits into this new directory, as train.jsonl, validation.jsonl and test.jsonl.",
)
@click.option(
    "--show",
    metavar="INT",
    default=3,
    show_default=True,
    type=click.IntRange(min=0),
    help="Number of examples to show of each class.",
)
@click.option(
    "--fix",
    "cleaned",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="First write a cleaned copy of the training data to this new file (.csv or .jsonl), without rows that "
    "can't be read, repeated texts, texts repeated with other labels and texts of the test split.",
)
@with_settings("data")
def data(config: PotstillConfig, target: Path | None, show: int, cleaned: Path | None) -> None:
    """Show how a data set is read and split, and what is wrong with it.

    Exit status: 0 it can be used, whatever is shown; 1 it can't, for instance since rows can't be read.

    \b
      potstill data tickets.csv
      potstill data tickets.csv --fix cleaned.csv
      potstill data reviews.tsv --text-column review --label-column stars --write splits
    """
    from potstill.console import SafeConsole
    from potstill.data.quality import checks

    given = data_given()
    if cleaned is not None:
        config, given = _fix(config, cleaned, given)
    corpus, refusals = _read(config.data)
    parts = {"train": corpus.train, "validation": corpus.validation, "test": corpus.test}
    console = SafeConsole(highlight=False, markup=False)
    console.print(f"{corpus.name}: {corpus.source}")
    console.print(_parts_table(parts, corpus.label_names))
    _show_classes(corpus, parts, show, console)
    console.print("\nchecks of all splits", style="bold")
    for check, found in checks(corpus, config.data.max_length):
        console.print(f"  {check}: {found}", soft_wrap=True)
    _show_suspicious(corpus, console)
    _warn_of_length(corpus.train, config.data.max_length)
    if refusals:
        suggest_next("data", *given, "--fix", "cleaned.csv")
        raise refusals[0]
    if target is not None:
        _write_parts(parts, typed_labels(corpus.label_names, corpus.label_type).tolist(), target, config.data)
        console.print(f"\nwritten to {target}")
    suggest_next("run", *given)


def _read(config: DataConfig) -> tuple[Corpus, list[DataError]]:
    """Read the rows that can be read; returns the errors of the others too, unless they are to be skipped."""
    from potstill.data import load_corpus
    from potstill.data.readers import bad_rows_collected

    if config.skip_bad_rows:
        return load_corpus(config), []
    with bad_rows_collected() as refusals:
        try:
            return load_corpus(config), refusals
        except DataError as error:
            raise (refusals or [error])[0] from None


def _show_classes(corpus: Corpus, parts: Mapping[str, Examples], show: int, console: SafeConsole) -> None:
    from potstill.data.encoded import class_counts, has_class

    counts = [class_counts(part.labels, corpus.num_classes) for part in parts.values()]
    for index, name in enumerate(corpus.label_names[:_SHOWN_CLASSES] if show else ()):
        numbers = ", ".join(f"{count[index]:,} {part}" for part, count in zip(parts, counts, strict=True))
        console.print(f"\n{name}: {numbers}", style="bold")
        for place in np.flatnonzero(has_class(corpus.train.labels, index))[:show]:
            texts = map(in_one_line, filter(None, corpus.train.items[place]))
            console.print(f"  {' | '.join(beginning(text, _SHOWN_CHARACTERS) for text in texts)}")
    if show and corpus.num_classes > _SHOWN_CLASSES:
        console.print(f"\nand {numbered(corpus.num_classes - _SHOWN_CLASSES, 'more class', 'more classes')}")
    for part_name, count in zip(parts, counts, strict=True):
        if absent := [name for name, number in zip(corpus.label_names, count, strict=True) if number == 0]:
            names = ", ".join(absent[:_SHOWN_CLASSES])
            more = f" and {len(absent) - _SHOWN_CLASSES:,} more" if len(absent) > _SHOWN_CLASSES else ""
            console.print(f"\nnot in the {part_name} split, too few examples: {names}{more}", soft_wrap=True)


def _fix(config: PotstillConfig, cleaned: Path, given: list[object]) -> tuple[PotstillConfig, list[object]]:
    """Write a cleaned copy, say what was left out; returns the configuration and the arguments that read the copy."""
    from potstill.data.clean import part_paths, write_clean_copy

    counts = write_clean_copy(config.data, cleaned)
    kept = counts.pop("kept")
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count) or "none"
    click.echo(printable(f"{cleaned}: {numbered(kept, 'row')} kept; left out: {left_out}"))
    values: dict[str, object] = {"source": str(cleaned)}
    given = [cleaned, *(one for one in given if one not in config.data.sources)]
    if config.data.test is None and len(tests := part_paths(config.data)[1]) == 1:  # that of the directory
        values["test"] = str(tests[0])
        given += ["--test-data", tests[0]]
    return config.model_copy(update={"data": config.data.model_copy(update=values)}), given


def _show_suspicious(corpus: Corpus, console: SafeConsole) -> None:
    """Show the labels that a linear model finds the most unlikely; texts with several labels are not searched."""
    from potstill.experiment.linear import suspicious_labels

    if corpus.is_multi_label:
        return
    everything = corpus.everything
    places, probabilities = suspicious_labels(everything)
    if not len(places):
        console.print(f"  {_UNLIKELY}: not searched, since too few classes have enough texts")
        return
    labels, others = everything.labels[places], probabilities.argmax(axis=1)
    found = np.flatnonzero(others != labels)
    title = f"{_UNLIKELY}: {len(found):,} of {len(places):,}"
    console.print(f"  {title}{', the most suspicious:' if len(found) else ''}", soft_wrap=True)
    for rank in found[:_SHOWN_LABELS]:
        text = " | ".join(map(in_one_line, filter(None, everything.items[places[rank]])))[:100]
        own, other = corpus.label_names[labels[rank]], corpus.label_names[others[rank]]
        console.print(f"    {own!r}, or {other!r}? {text}", soft_wrap=True)


def _parts_table(parts: Mapping[str, Examples], label_names: Sequence[str]) -> Table:
    from potstill.data.encoded import class_counts

    rows = []
    for name, part in parts.items():
        counts = class_counts(part.labels, len(label_names))
        words = [len(text.split()) for text in part.texts]
        majority = (label_names[int(counts.argmax())], f"{counts.max() / len(part):.2%}")
        rows.append((name, len(part), *majority, round(np.median(words)), max(words)))
    return _table(("split", "examples", "majority class", "share", "words, median", "words, longest"), rows)


def _warn_of_length(examples: Examples, max_length: int) -> None:
    """Warn where texts are too long, counted without a tokenizer, by words and signs."""
    from potstill.console import warn
    from potstill.data.quality import lengths

    counts = lengths(examples)
    if (long := counts > max_length).any():
        share = 100 * (counts - max_length)[long].sum() / counts.sum()
        warn(
            f"{numbered(int(long.sum()), 'training text has', 'training texts have')} more than {max_length} words and "
            f"signs: about {share:.1f} % of them are not read; --max-length sets another length, "
            "--long-texts head-tail (for single texts) reads their end, too"
        )


def _write_parts(parts: Mapping[str, Examples], labels: Sequence[Any], target: Path, config: DataConfig) -> None:
    from potstill.store.atomic import new_directory, write_text

    new_directory(target)
    for name, part in parts.items():
        lines = []
        for (text, pair), label in zip(part.items, named(part.labels, labels), strict=True):
            row = {config.text_column: text, config.label_column: label}
            if pair is not None and config.pair_column is not None:
                row[config.pair_column] = pair
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        write_text(target / f"{name}.jsonl", "".join(lines))
