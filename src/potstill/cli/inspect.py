"""The commands that look and train nothing: params, data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from potstill.cli.settings import SettingsCommand, with_settings
from potstill.config import PotstillConfig
from potstill.wording import numbered

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from potstill.data import Corpus, Examples
    from potstill.lora.counting import Cost, ModuleRow

_SHOWN_CLASSES = 10
"""Classes of which texts are shown: a screenful."""


@click.command(cls=SettingsCommand)
@click.option("--classes", default=2, show_default=True, type=click.IntRange(min=2), help="Outputs of the head.")
@with_settings(
    *("teacher.backbone", "teacher.random_init", "teacher.method", "teacher.base_bits", "teacher.first_blocks"),
    "teacher.lora",
)
def params(config: PotstillConfig, classes: int) -> None:
    """Show what tuning a backbone trains, module by module, and what it costs, from the model itself.

    Modules that are alike in several blocks share a row; its numbers are those of all of them. Operations are those of
    the matrices, per token: 2 per weight forwards, 2 more backwards below what is trained, 2 more for what is trained.

    \b
    The reference experiment's numbers, with no hub in reach:
      potstill params --backbone gpt2 --random-init --rank 4 --train-layernorm
    What adapters on the last blocks alone would take:
      potstill params --last-blocks 6
    """
    from rich.console import Console

    from potstill.backbone import build_classifier
    from potstill.lora.counting import cost, module_rows, parameter_groups
    from potstill.teacher import prepare

    teacher = config.teacher
    # PiSSA's start has the same shapes: no need to decompose every matrix for them.
    teacher = teacher.model_copy(update={"lora": teacher.lora.model_copy(update={"init": "kaiming"})})
    model = build_classifier(
        teacher.backbone, classes, random_init=teacher.random_init, first_blocks=teacher.first_blocks
    ).model
    prepare(model, teacher)
    groups = parameter_groups(model)
    console = Console(highlight=False, markup=False)
    console.print(_modules_table(module_rows(model)), "")
    console.print(_groups_table(groups), "")
    total = sum(count for count, _ in groups.values())
    trainable = sum(trained for _, trained in groups.values())
    reduction = 100 * (1 - trainable / total)
    console.print(f"{teacher.backbone}, {teacher.method}: {classes} classes")
    console.print(f"total {_millions(total)}, trainable {_millions(trainable)}, reduction {reduction:.1f} %")
    _print_cost(cost(model), console)


def _modules_table(rows: list[ModuleRow]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("module", overflow="fold")
    for title in ("shape", "rank", "parameters", "trainable"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        shape = " × ".join(map(str, row.shape))
        rank = "" if row.rank is None else str(row.rank)
        table.add_row(row.name, shape, rank, f"{row.parameters:,}", f"{row.trainable:,}")
    return table


def _groups_table(groups: dict[str, tuple[int, int]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("part", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("parameters", justify="right")
    table.add_column("trainable", justify="right")
    for name, (count, trained) in groups.items():
        table.add_row(name, f"{count:,}", f"{trained:,}")
    return table


def _print_cost(costs: Cost, console: Console) -> None:
    memory = f"weights {costs.weight_bytes / 1e6:.1f} MB, gradients and AdamW {costs.optimizer_bytes / 1e6:.1f} MB"
    console.print(f"memory: {memory}, activations apart")
    forward, training = (f"{count / 1e6:.1f} MFLOP" for count in (costs.forward_flops, costs.training_flops))
    console.print(f"per token: forward {forward}, forward and backward {training}")


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}M"


@click.command(cls=SettingsCommand)
@click.option(
    "--write",
    "target",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also write the parts as train.jsonl, selection.jsonl and test.jsonl into this new directory.",
)
@click.option(
    "--show", default=3, show_default=True, type=click.IntRange(min=0), help="Examples to show of each class."
)
@with_settings("data")
def data(config: PotstillConfig, target: Path | None, show: int) -> None:
    """Show how a data set is read and split, or what is wrong with it."""
    from rich.console import Console

    from potstill.data import load_corpus

    corpus = load_corpus(config.data)
    console = Console(highlight=False, markup=False)
    console.print(f"{corpus.name}: {corpus.source}")
    console.print(_parts_table(corpus))
    parts = (corpus.train, corpus.selection, corpus.evaluation)
    counts = np.stack([np.bincount(part.labels, minlength=corpus.num_classes) for part in parts], axis=1)
    for index, name in enumerate(corpus.label_names[:_SHOWN_CLASSES] if show else ()):
        train, selection, evaluation = counts[index]
        console.print(
            f"\n{name}: {train:,} to train, {selection:,} to select, {evaluation:,} to evaluate", style="bold"
        )
        for place in np.flatnonzero(corpus.train.labels == index)[:show]:
            console.print(f"  {' | '.join(filter(None, corpus.train.items[place]))}")
    if show and corpus.num_classes > _SHOWN_CLASSES:
        console.print(f"\nand {numbered(corpus.num_classes - _SHOWN_CLASSES, 'more class', 'more classes')}")
    for place, part_name in ((1, "selection"), (2, "evaluation")):
        if absent := [name for name, count in zip(corpus.label_names, counts[:, place], strict=True) if count == 0]:
            console.print(f"\nnot in the {part_name} part, too few examples: {', '.join(absent)}")
    if target is not None:
        _write_parts(corpus, target, config)
        console.print(f"\nwritten to {target}")


def _parts_table(corpus: Corpus) -> Table:
    from rich.table import Table

    table = Table("part")
    for title in ("examples", "majority class", "share", "words, median", "words, longest"):
        table.add_column(title, justify="right")
    for name in ("train", "selection", "evaluation"):
        part: Examples = getattr(corpus, name)
        counts = np.bincount(part.labels, minlength=corpus.num_classes)
        words = [len(text.split()) for text in part.texts]
        most = int(counts.argmax())
        table.add_row(
            name,
            f"{len(part):,}",
            corpus.label_names[most],
            f"{counts[most] / len(part):.2%}",
            f"{np.median(words):.0f}",
            str(max(words)),
        )
    return table


def _write_parts(corpus: Corpus, target: Path, config: PotstillConfig) -> None:
    from potstill.artifacts import new_directory
    from potstill.files import write_text

    new_directory(target)
    for name, part in (("train", corpus.train), ("selection", corpus.selection), ("test", corpus.evaluation)):
        rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(corpus, part, config))
        write_text(target / f"{name}.jsonl", "".join(rows))


def _rows(corpus: Corpus, part: Examples, config: PotstillConfig) -> Iterator[dict[str, str]]:
    settings = config.data
    for number, (text, label) in enumerate(zip(part.texts, part.labels, strict=True)):
        row = {settings.text_column: text, settings.label_column: corpus.label_names[label]}
        if part.pairs is not None and settings.pair_column is not None:
            row[settings.pair_column] = part.pairs[number]
        yield row
