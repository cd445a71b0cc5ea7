"""The bodies of all responses but refusals (`problems.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from potstill.predict.decision import predict_class
from potstill.predict.output import DIGITS
from potstill.serve.limits import Limits
from potstill.serve.models import Kind, ServedModel

_ALL_CLASSES, _FIRST_CLASSES = 100, 10
"""By default all classes are in an answer, of more than 100 the first ten: 1,500 for 256 texts take 22 MB."""


class _Documented(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Prediction(_Documented):
    """A model's answer to one text."""

    label: str
    """The most probable class, unless the model has a threshold."""
    probability: float
    """Its probability."""
    probabilities: dict[str, float]
    """Each class's probability; of more than 100 classes, or where `top_k` asks for it, the most probable ones'."""
    truncated: bool | None
    """Whether the text was longer than the model reads, so that its end was not read; null: not known."""


class ModelAnswer(_Documented):
    """A model's answers to all texts."""

    model: str
    """Its name."""
    digest: str | None
    """Changes with the model's files; null where it has no checksums."""
    latency_ms: float
    """From being queued to being computed."""
    predictions: list[Prediction]
    """One per text, in their order."""

    @classmethod
    def of(
        cls,
        model: ServedModel,
        probabilities: npt.NDArray[np.float32],
        truncated: Sequence[bool | None],
        seconds: float,
        top_k: int | None,
    ) -> ModelAnswer:
        """Make an answer of `probabilities`, (texts, classes), with at most `top_k` classes a text."""
        classes = len(model.labels)
        count = min(top_k or (classes if classes <= _ALL_CLASSES else _FIRST_CLASSES), classes)
        order = np.arange(classes)[None].repeat(len(probabilities), axis=0)
        if count < classes:
            order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
        rows = probabilities.astype(np.float64).round(DIGITS).tolist()
        chosen = predict_class(probabilities, model.threshold).tolist()
        predictions = [
            Prediction.model_construct(
                label=model.labels[best],
                probability=row[best],
                probabilities={model.labels[place]: row[place] for place in places},
                truncated=cut,
            )
            for row, best, places, cut in zip(rows, chosen, order.tolist(), truncated, strict=True)
        ]
        return cls.model_construct(
            model=model.name, digest=model.digest, latency_ms=round(seconds * 1e3, 3), predictions=predictions
        )


class PredictAnswer(_Documented):
    """The answers of the models, in the order in which the request names them."""

    request_id: str
    """The request's `X-Request-ID`."""
    answers: list[ModelAnswer]


class ModelCard(_Documented):
    """A model that is served."""

    name: str
    kind: Kind
    digest: str | None
    """Changes with the model's files; null where it has no checksums."""
    labels: tuple[str, ...]
    """Its classes."""
    in_pairs: bool
    """Whether it classifies pairs of texts."""
    threshold: float | None
    """Of two classes, the second is the label where its probability is above this; null: the most probable class is."""


class Models(_Documented):
    """The models, and the limits of a request."""

    models: list[ModelCard]
    limits: Limits
    examples: list[str]
    """Texts to try, for the page; a pair has a tab between its texts."""


class Health(_Documented):
    """Whether the server and its models answer."""

    status: str
    models: dict[str, bool]
    """Whether each model answers: false where it has computed one piece of a request for longer than the deadline."""
