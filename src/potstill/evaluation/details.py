"""What a report shows of single texts, and its curves: `Details` is the content of `details.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from potstill.data.encoded import in_words
from potstill.data.examples import Examples
from potstill.evaluation.metrics import Classes, Floats
from potstill.evaluation.results import parse_as
from potstill.evaluation.significance import McNemar
from potstill.predict.decision import confidence
from potstill.predict.directory import Role
from potstill.predict.wording import beginning, printable

SHOWN_CASES: Final = 20
_KEPT_CHARACTERS: Final = 500
"""Of a text; `predictions.csv` and the data have all of it."""
_CURVE_POINTS: Final = 200


@dataclass(frozen=True)
class Case:
    """A text with its label and a model's answer, named, and their probabilities by that model.

    Of a text that may have several classes, label and answer are all of them, and probabilities those of just these.

    `text` and `pair`, the second text, are cut, with control characters escaped; `teacher` is the teacher's answer.
    """

    text: str
    pair: str | None
    label: str
    answer: str
    label_probability: float
    answer_probability: float
    teacher: str | None = None


@dataclass(frozen=True)
class LearningCurve:
    """How accurate the linear model is on the validation split with fewer training texts.

    Attributes:
        points: Numbers of training texts, ascending to all of them, and the accuracy of each.
        last_step: The model of all training texts against that of the number before.
    """

    points: tuple[tuple[int, float], ...]
    last_step: McNemar


@dataclass(frozen=True)
class Details:
    """What a report shows beside the summary.

    Attributes:
        role: Kind of the student that `predict`, `serve` and `export` use.
        seed: Its seed.
        in_pairs: Whether it classifies pairs of texts.
        confusion: Its answers to the test texts: class index of the label, that of the answer, number of texts. Empty
            where a text may have several classes.
        coverage: Its risk-coverage curve, see `risk_coverage`.
        mistakes: Test texts with a wrong answer, first those of whose answer it is the surest.
        suspicious: Training texts with the labels that a linear model finds least probable, without having seen them.
        suspicious_note: What the search for these was limited to, or why there was none.
        learning_curve: None where the training texts have one class, or each may have several.
    """

    role: Role
    seed: int
    in_pairs: bool
    confusion: tuple[tuple[int, int, int], ...]
    coverage: tuple[tuple[float, float], ...]
    mistakes: tuple[Case, ...]
    suspicious: tuple[Case, ...]
    suspicious_note: str
    learning_curve: LearningCurve | None

    def to_json(self) -> str:
        """Write all fields."""
        return pydantic_core.to_json(vars(self), indent=2).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> Details:
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: The text is something else.
        """
        return parse_as(cls, text, "these are no details of a run's report; repeat the run")


def confusion(labels: Classes, answers: Classes, classes: int) -> tuple[tuple[int, int, int], ...]:
    """Count the texts of every label and answer that occur together."""
    table = np.bincount(labels * classes + answers, minlength=classes**2)
    return tuple((int(cell) // classes, int(cell) % classes, int(table[cell])) for cell in np.flatnonzero(table))


def risk_coverage(confidences: Floats, right: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Compute the share of wrong answers among the texts of which a model is surest (El-Yaniv and Wiener 2010).

    Args:
        confidences: Probability of each answer, (texts,).
        right: Whether it is right, (texts,).

    Returns:
        At most `_CURVE_POINTS` pairs of coverage (share of texts that are answered) and risk (share of errors among
        them). Texts of equal confidence are answered together.
    """
    order = np.argsort(-confidences, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(confidences[order]) != 0, True)) + 1  # texts answered at each threshold
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, _CURVE_POINTS).round().astype(int))]
    wrong = np.cumsum(~right[order])[ends - 1]
    return tuple((float(end) / len(order), float(errors) / float(end)) for end, errors in zip(ends, wrong, strict=True))


def cases(
    examples: Examples,
    chosen: Sequence[int] | Classes,
    names: Sequence[str],
    probabilities: NDArray[np.floating],
    answers: Classes,
    teacher: Classes | None = None,
) -> tuple[Case, ...]:
    """Describe the first `SHOWN_CASES` of the texts at the indices `chosen`.

    `names` are those of the classes; `probabilities`, (texts, classes), and `answers` a model's; `teacher` are the
    teacher's answers. Answers have the shape of labels.
    """
    places = np.asarray(chosen[:SHOWN_CASES], dtype=np.int64)
    shown, labels, given = examples.take(places), examples.labels[places], answers[places]
    rows = zip(
        shown.items,
        in_words(labels, names),
        in_words(given, names),
        confidence(probabilities[places], labels).tolist(),
        confidence(probabilities[places], given).tolist(),
        [None] * len(shown) if teacher is None else in_words(teacher[places], names),
        strict=True,
    )
    return tuple(
        Case(_beginning(text), None if pair is None else _beginning(pair), *about) for (text, pair), *about in rows
    )


def _beginning(text: str) -> str:
    return printable(beginning(text, _KEPT_CHARACTERS))
