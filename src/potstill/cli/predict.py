"""`potstill predict`: a saved model's answers, a line of JSON each. A student needs no torch for it."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

import click
import numpy as np
from numpy.typing import NDArray

from potstill.errors import DataError
from potstill.runtime import Classifier
from potstill.runtime.directory import find_student

_CHUNK = 1024
"""Texts read and answered at a time: bounds the memory whatever the input's size."""

Probabilities = Callable[[list[str]], NDArray[np.float32]]


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("file", required=False, type=click.File("rb"))
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text to classify; may be given several times.")
def predict(model: Path, file: Iterable[bytes] | None, texts: tuple[str, ...]) -> None:
    """Classify each line of FILE (- for standard input), or each --text, with MODEL.

    MODEL is a student's or teacher's directory, or a run directory, whose best distilled student is taken. Prints one
    JSON object a text: text, label, probability of that label.
    """
    if (file is None) == (not texts):
        raise click.UsageError("give either FILE (- for standard input) or --text")
    labels, probabilities = _open(model)
    lines = texts if file is None else _decode(file)
    for chunk in _chunks(lines):
        _write(chunk, labels, probabilities(chunk), sys.stdout)


def _open(model: Path) -> tuple[tuple[str, ...], Probabilities]:
    """Load a student without torch; only a teacher brings it in."""
    if (model / "teacher.json").is_file():
        from potstill.config import RuntimeConfig
        from potstill.models import TeacherModel
        from potstill.teacher import Teacher

        teacher = TeacherModel(Teacher.load(model, RuntimeConfig()))
        return teacher.label_names, teacher.probabilities
    classifier = Classifier.load(find_student(model))
    return classifier.labels, classifier.predict_proba


def _decode(file: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            # A byte order mark stands at the start of many files from Windows and is no text.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            name = getattr(file, "name", "standard input")
            raise DataError(
                f"expected UTF-8, found byte {line[error.start]:#04x}",
                file=name,
                line=number,
                remedy="save the file as UTF-8",
            ) from None
        if text:
            yield text


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(lines)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk


def _write(texts: list[str], labels: tuple[str, ...], probabilities: NDArray[np.float32], out: TextIO) -> None:
    """Print one JSON object a text."""
    for text, row in zip(texts, probabilities, strict=True):
        best = int(row.argmax())
        answer = {"text": text, "label": labels[best], "probability": round(float(row[best]), 4)}
        out.write(json.dumps(answer, ensure_ascii=False) + "\n")
