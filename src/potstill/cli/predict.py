"""`potstill predict`: a saved model's answers, a line of JSON each. A student needs no torch for it."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np
from numpy.typing import NDArray

from potstill.errors import DataError
from potstill.runtime import Classifier
from potstill.runtime.directory import TEACHER_MANIFEST, find_student

_CHUNK = 1024
"""Texts read and answered at a time: bounds the memory whatever the input's size."""

_Texts = list[str] | list[tuple[str, str]]


@dataclass(frozen=True)
class _Model:
    """What answering needs of a student or a teacher."""

    labels: tuple[str, ...]
    reads_pairs: bool
    probabilities: Callable[[Any], NDArray[np.float32]]


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("file", required=False, type=click.File("rb"))
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text to classify; may be given several times.")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file whose part `runtime` says where a teacher computes; flags go over it. Students need none.",
)
@click.option("--device", metavar="NAME", help="Where a teacher computes: auto, cpu, cuda or mps.  [default: auto]")
@click.option("--precision", metavar="NAME", help="A teacher's: auto, 32-true or bf16-mixed.  [default: auto]")
def predict(
    model: Path,
    file: Iterable[bytes] | None,
    texts: tuple[str, ...],
    config_file: Path | None,
    device: str | None,
    precision: str | None,
) -> None:
    """Classify each line of FILE (- for standard input), or each --text, with MODEL.

    MODEL is a student's or teacher's directory, or a run directory, whose best distilled student is taken. Prints one
    JSON object a text: text, label, probability of that label. A model of pairs takes both texts with a tab between.
    """
    if (file is None) == (not texts):
        raise click.UsageError("give either FILE (- for standard input) or --text")
    flags = {name: value for name, value in (("device", device), ("precision", precision)) if value is not None}
    opened = _open(model, config_file, flags)
    name, lines = ("--text", enumerate(texts, start=1)) if file is None else _decode(file)
    for chunk in _chunks(_inputs(lines, name, opened.reads_pairs)):
        _write(chunk, opened, sys.stdout)


def _open(model: Path, config_file: Path | None, flags: dict[str, str]) -> _Model:
    """Load a student without torch; only a teacher brings it in, and with it the settings."""
    if (model / TEACHER_MANIFEST).is_file():
        from potstill.config import PotstillConfig
        from potstill.models import TeacherModel
        from potstill.teacher import Teacher

        config = PotstillConfig() if config_file is None else PotstillConfig.load(config_file)
        config = PotstillConfig.build({"runtime": config.runtime.model_dump() | flags})
        teacher = TeacherModel(Teacher.load(model, config.runtime))
        return _Model(teacher.label_names, teacher.reads_pairs, teacher.probabilities)
    classifier = Classifier.load(find_student(model))
    return _Model(classifier.labels, classifier.reads_pairs, classifier.predict_proba)


def _decode(file: Iterable[bytes]) -> tuple[str, Iterator[tuple[int, str]]]:
    """Return the file's name and its numbered lines."""
    name = getattr(file, "name", "standard input")

    def lines() -> Iterator[tuple[int, str]]:
        for number, line in enumerate(file, start=1):
            try:
                # A byte order mark stands at the start of many files from Windows and is no text.
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                found = f"expected UTF-8, found byte {line[error.start]:#04x}"
                raise DataError(found, file=name, line=number, remedy="save the file as UTF-8") from None

    return name, lines()


def _inputs(lines: Iterable[tuple[int, str]], name: str, in_pairs: bool) -> Iterator[str | tuple[str, str]]:
    """Turn lines into what the model reads; empty lines are passed over."""
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        if not in_pairs:
            yield text
            continue
        first, tab, second = text.partition("\t")
        if not tab or "\t" in second:
            found = f"expected two texts with a tab between, found {text.count(chr(9))} tabs"
            raise DataError(found, file=name, line=number, remedy="this model classifies pairs: give both texts")
        yield first.strip(), second.strip()


def _chunks(inputs: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(inputs)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk


def _write(texts: _Texts, model: _Model, out: TextIO) -> None:
    """Print one JSON object a text."""
    for text, row in zip(texts, model.probabilities(texts), strict=True):
        best = int(row.argmax())
        read = {"text": text} if isinstance(text, str) else {"text": text[0], "pair": text[1]}
        answer = {**read, "label": model.labels[best], "probability": round(float(row[best]), 4)}
        out.write(json.dumps(answer, ensure_ascii=False) + "\n")
