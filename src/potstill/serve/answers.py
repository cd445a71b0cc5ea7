"""The bodies of all responses but refusals (`problems.py`): plain dicts, whose types make the schema in OpenAPI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from potstill.predict.decision import abstains, named, predict_class
from potstill.predict.output import DIGITS
from potstill.serve.limits import Limits
from potstill.serve.models import Kind, ServedModel

Label = str | int | float | bool
"""A class, of the type that the labels of the training data have; the keys of `probabilities` are strings."""

_ALL_CLASSES, _FIRST_CLASSES = 100, 10
"""By default all classes are in an answer, of more than 100 the first ten: 1,500 for 256 texts take 22 MB."""


class Prediction(TypedDict):
    """An answer to one text: its class, that class's probability, and those of all classes or the most probable ones.

    The label is null where the class is less probable than the model's `min_confidence`: ask a person. `truncated` is
    true where the text was longer than the model reads, so that its end was not read; null: not known.
    """

    label: Label | None
    probability: float
    probabilities: dict[str, float]
    truncated: bool | None


class LabelSet(TypedDict):
    """An answer of a multi-label model to one text: the classes that it has, of any number; the rest as above."""

    labels: list[Label]
    probabilities: dict[str, float]
    truncated: bool | None


class ModelAnswer(TypedDict):
    """A model's answers to all texts, in their order; its digest changes with its files, null where it has none."""

    model: str
    digest: str | None
    latency_ms: float
    predictions: list[Prediction] | list[LabelSet]


class PredictAnswer(TypedDict):
    """The answers of the models, in the order in which the request names them, and the request's `X-Request-ID`."""

    request_id: str
    answers: list[ModelAnswer]


class ModelCard(TypedDict):
    """A model that is served.

    With a `threshold`, of its two classes the second is the label where its probability is above this. A list of them,
    one for each class, has a multi-label model: a text has the classes whose probability is above their threshold. With
    a `min_confidence`, there is no label where its probability would be below this.
    """

    name: str
    kind: Kind
    digest: str | None
    labels: tuple[Label, ...]
    in_pairs: bool
    threshold: float | list[float] | None
    min_confidence: float | None


class Models(TypedDict):
    """The models, the limits of a request, and texts to try; a pair has a tab between its texts."""

    models: list[ModelCard]
    limits: Limits
    examples: list[str]


class Health(TypedDict):
    """Whether the server and each model answer: false where a model computes for longer than the deadline."""

    status: str
    models: dict[str, bool]


def describe(model: ServedModel) -> ModelCard:
    """Return what `/v1/models` says of a model."""
    card: Any = {name: getattr(model, name) for name in ModelCard.__annotations__}
    card |= {"labels": model.typed_labels}
    if isinstance(model.threshold, tuple):
        card["threshold"] = list(model.threshold)
    return card  # type: ignore[no-any-return]


def answer(
    model: ServedModel,
    probabilities: npt.NDArray[np.float32],
    truncated: Sequence[bool | None],
    seconds: float,
    top_k: int | None,
) -> ModelAnswer:
    """Make an answer of `probabilities`, (texts, classes), with at most `top_k` classes a text."""
    classes = len(model.labels)
    count = min(top_k or (classes if classes <= _ALL_CLASSES else _FIRST_CLASSES), classes)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    if count == classes:
        order = np.arange(classes)[None].repeat(len(probabilities), axis=0)
    rows = probabilities.astype(np.float64).round(DIGITS).tolist()
    chosen = predict_class(probabilities, model.threshold)
    shown = ({model.labels[place]: row[place] for place in places} for row, places in zip(rows, order, strict=True))
    predictions: list[Any]
    if isinstance(model.threshold, tuple):
        predictions = [
            LabelSet(labels=labels, probabilities=probable, truncated=cut)
            for labels, probable, cut in zip(named(chosen, model.typed_labels), shown, truncated, strict=True)
        ]
    else:
        given = named(chosen, model.typed_labels, abstains(probabilities, chosen, model.min_confidence))
        predictions = [
            Prediction(
                label=label,
                probability=row[best],
                probabilities=probable,
                truncated=cut,
            )
            for row, best, label, probable, cut in zip(rows, chosen.tolist(), given, shown, truncated, strict=True)
        ]
    latency = round(seconds * 1e3, 3)
    return {"model": model.name, "digest": model.digest, "latency_ms": latency, "predictions": predictions}
