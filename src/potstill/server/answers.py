"""What is answered: the bodies of all responses but refusals (`problems.py`)."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from potstill.runtime.answers import DIGITS
from potstill.runtime.decision import decide
from potstill.server.batching import Answer
from potstill.server.limits import Limits
from potstill.server.models import Kind, ServedModel


class _Documented(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Prediction(_Documented):
    """A model's answer to one text."""

    label: str
    """The most probable class, unless the model has a threshold."""
    probability: float
    """Its probability."""
    probabilities: dict[str, float]
    """Each class's probability."""


class ModelAnswer(_Documented):
    """A model's answers to all texts."""

    model: str
    """Its name."""
    latency_ms: float
    """From being queued to being computed."""
    predictions: list[Prediction]
    """One per text, in their order."""

    @classmethod
    def of(cls, model: ServedModel, answer: Answer) -> ModelAnswer:
        """Write an answer down."""
        rows = answer.probabilities.astype(np.float64).round(DIGITS).tolist()  # (texts, classes)
        places = decide(answer.probabilities, model.threshold).tolist()
        return cls(
            model=model.name,
            latency_ms=round(answer.seconds * 1e3, 3),
            predictions=[
                Prediction(
                    label=model.labels[place],
                    probability=row[place],
                    probabilities=dict(zip(model.labels, row, strict=True)),
                )
                for row, place in zip(rows, places, strict=True)
            ],
        )


class PredictAnswer(_Documented):
    """The answers of all models that were asked, in the order in which they were named."""

    request_id: str
    """The request's `X-Request-ID`."""
    answers: list[ModelAnswer]


class ModelCard(_Documented):
    """A model that can be asked."""

    name: str
    kind: Kind
    labels: list[str]
    """Its classes."""
    reads_pairs: bool
    """Whether it classifies pairs of texts."""
    threshold: float | None
    """Of two classes, the second is the label where its probability is above this; null: the most probable class is."""


class Models(_Documented):
    """What there is to ask, and how much at a time."""

    models: list[ModelCard]
    limits: Limits
    examples: list[str]
    """Texts to try, for the page; a pair has a tab between its texts."""


class Health(_Documented):
    """How the server is."""

    status: str
    models: dict[str, bool]
    """Whether each model's worker is alive."""
