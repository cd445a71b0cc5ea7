"""Any model on labelled texts: its answers, scores, calibration and speed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from potstill.data import Examples
from potstill.errors import ArtifactError
from potstill.evaluation.calibration import Calibration
from potstill.evaluation.metrics import Intervals, Metrics, bootstrap_intervals, compute_metrics
from potstill.evaluation.results import EnsembleResult
from potstill.predict.decision import Threshold, abstains, predict_class, probabilities_of

_MEASURED_SECONDS: Final = 0.1
"""Speeds are measured for at least so long: few texts are read several times."""
_SINGLE_TEXTS, _SINGLE_SECONDS = 100, 1.0
"""Texts that are answered one by one to measure latency, and how long that may take."""
_WARM_UP: Final = 16
"""Texts read before the clock starts: allocations and the choice of kernels happen once."""


class SavedModel(Protocol):
    """A teacher or student: `probabilities_of` and `predict_class` make answers of its logits."""

    label_names: tuple[str, ...]
    in_pairs: bool
    temperature: float
    threshold: Threshold
    min_confidence: float | None

    def logits(self, examples: Examples, /) -> NDArray[np.float32]:
        """Return the logits, (texts, classes); the labels are not looked at."""


@dataclass(frozen=True)
class Selective:
    """What a model scores on the texts that it answers, those of which it is sure enough.

    Attributes:
        min_confidence: The least probability of an answer that is given.
        coverage: Share of the texts that are answered.
        accuracy: Share of the answers that are right; None: there is no answer.
    """

    min_confidence: float
    coverage: float
    accuracy: float | None


@dataclass(frozen=True)
class Measurement:
    """A model's answers on a labelled split, and what they are worth; `ModelResult` explains the other fields.

    Attributes:
        logits: Scores before temperature and softmax, (texts, classes).
        predictions: Class index per text, (texts,), or (texts, classes), as `Examples` holds labels.
        latency_ms: Milliseconds from one text to its answer, the median.
        unanswered: Number of texts that the model has no answer to; each counts as its usual answer.
        selective: Coverage and accuracy of a model that abstains. The other scores are those of its most probable
            answers, given or not.
    """

    logits: NDArray[np.float32]
    predictions: NDArray[np.int64]
    metrics: Metrics
    intervals: Intervals
    texts_per_second: float
    latency_ms: float
    calibration: Calibration
    threshold: Threshold = None
    unanswered: int = 0
    selective: Selective | None = None


def measure(model: SavedModel, examples: Examples) -> Measurement:
    """Score `model` on labelled texts.

    Raises:
        ArtifactError: The model classifies pairs of texts and the examples are none, or the other way round; or it
            names any number of classes for a text and the examples have one each, or the other way round.
    """
    require_same_kind(examples, in_pairs=model.in_pairs)
    require_same_task(examples, model.threshold)
    model.logits(examples.take(range(min(_WARM_UP, len(examples)))))
    started, passes, seconds = time.perf_counter(), 0, 0.0
    while seconds < _MEASURED_SECONDS:
        raw = model.logits(examples)
        logits = with_usual_answer(raw, model.threshold)
        probabilities = probabilities_of(logits, model.temperature, model.threshold)
        predictions = predict_class(probabilities, model.threshold)
        passes, seconds = passes + 1, time.perf_counter() - started
    labels, classes = examples.labels, len(model.label_names)
    selective = None
    if (least := model.min_confidence) is not None:
        given = ~abstains(probabilities, predictions, least)
        right = predictions[given] == labels[given]
        selective = Selective(least, float(given.mean()), float(right.mean()) if right.size else None)
    return Measurement(
        logits=logits,
        predictions=predictions,
        metrics=compute_metrics(labels, predictions, classes, logits),
        intervals=bootstrap_intervals(labels, predictions, classes),
        texts_per_second=passes * len(examples) / seconds,
        latency_ms=1000 * _latency(model, examples),
        calibration=Calibration.of(logits, labels, model.temperature),
        threshold=model.threshold,
        unanswered=int(np.isnan(raw).any(axis=1).sum()),
        selective=selective,
    )


def _latency(model: SavedModel, examples: Examples) -> float:
    """Return the median seconds from one text to its answer, over some of the texts."""
    seconds: list[float] = []
    for place in range(min(_SINGLE_TEXTS, len(examples))):
        started = time.perf_counter()
        model.logits(examples.take([place]))
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > _SINGLE_SECONDS:
            break
    return median(seconds)


def with_usual_answer(logits: NDArray[np.float32], threshold: Threshold = None) -> NDArray[np.float32]:
    """Replace missing answers, rows of NaN in (texts, classes), by the mean log-probabilities of the others.

    Where a `threshold` says that a text may have any number of classes, by the mean logits.
    """
    missing = np.asarray(np.isnan(logits).any(axis=1))
    if not missing.any():
        return logits
    given = logits[~missing] if isinstance(threshold, tuple) else log_softmax(logits[~missing], axis=1)
    usual = np.zeros(logits.shape[1]) if missing.all() else given.mean(axis=0)
    return np.where(missing[:, None], usual.astype(np.float32), logits)


def measure_together(
    logits: NDArray[np.float32], examples: Examples, threshold: Threshold = None
) -> tuple[EnsembleResult, NDArray[np.int64]]:
    """Score the averaged answers of several teachers, given as logits, (texts, classes); return these answers too."""
    predictions, classes = predict_class(probabilities_of(logits, threshold=threshold), threshold), logits.shape[1]
    result = EnsembleResult(
        metrics=compute_metrics(examples.labels, predictions, classes, logits),
        intervals=bootstrap_intervals(examples.labels, predictions, classes),
        calibration=Calibration.of(logits, examples.labels),
    )
    return result, predictions


def require_same_kind(examples: Examples, *, in_pairs: bool) -> None:
    """Check that a model of pairs gets pairs, and any other one single texts.

    Raises:
        ArtifactError: It is the other way round.
    """
    if in_pairs != (examples.pairs is not None):
        kinds = ("single texts", "pairs of texts")
        raise ArtifactError(
            f"the model classifies {kinds[in_pairs]}, the data holds {kinds[not in_pairs]}\n"
            f"  what to do: name the second text's column with --pair-column, or leave that out"
        )


def require_same_task(examples: Examples, threshold: Threshold) -> None:
    """Check that a model which names any number of classes for a text gets such labels, and any other one not.

    Raises:
        ArtifactError: It is the other way round.
    """
    if isinstance(threshold, tuple) != (several := examples.labels.ndim > 1):
        kinds = ("one class for each text", "any number of classes for a text")
        flags = "--label-separator, --label-columns or --multi-label"
        remedy = f"leave out {flags}" if several else f"say how the labels are written with {flags}"
        raise ArtifactError(
            f"the model names {kinds[not several]}, the data holds {kinds[several]}\n"
            f"  what to do: {remedy}, or train another model"
        )
