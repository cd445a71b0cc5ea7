"""A student's weights, rounded to as few bits as its answers allow.

Weights of 8 bits have one scale in float16 for every 32 of them, as in llama.cpp's Q8_0 (`block_q8_0` in
https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from tokenizers import Tokenizer

from potstill.data.encoded import correct
from potstill.errors import ArtifactError
from potstill.predict import Classifier
from potstill.predict.decision import predict_class
from potstill.predict.directory import Manifest

Texts = Literal["validation", "random"]
Arrays = Mapping[str, NDArray[Any]]

_GROUP: Final = 32
_MOST_CHANGED: Final[dict[int, dict[Texts, float]]] = {
    8: {"validation": 0.01, "random": 0.05},
    16: {"validation": 0.0, "random": 0.0},
    32: {"validation": 0.0, "random": 0.0},
}
"""Share of the answers that weights of so many bits may change. The accuracy changes by no more than that. Of random
texts models are less sure: of the student of CLINC150, 8 bits change 0.0004 of the answers to held-out texts, and 0.017
of those to random ones."""


def round_weights(
    graph: bytes, tokenizer: Tokenizer, manifest: Manifest, items: Sequence[Any], kind: Texts
) -> tuple[Classifier, Arrays, str]:
    """Round the weights of a student's graph to the fewest bits that leave its answers to `items` as they were.

    Returns:
        A classifier with the rounded weights, the tensors to store, and in a sentence what rounding changed.

    Raises:
        ArtifactError: The weights are not finite.
    """
    model = onnx.load_from_string(graph)
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    weights = {name: array for name, array in constants.items() if array.dtype.kind == "f" and array.ndim}
    expected, tried = answers(Classifier(graph, tokenizer, manifest), items), []
    for bits, most in _MOST_CHANGED.items():
        stored, rounded = _round(weights, bits)
        if not all(np.isfinite(array).all() for array in rounded.values()):
            continue  # half precision has no numbers beyond 65,504
        for tensor in model.graph.initializer:
            if tensor.name in rounded:
                tensor.CopyFrom(numpy_helper.from_array(rounded[tensor.name], tensor.name))
        classifier = Classifier(model.SerializeToString(), tokenizer, manifest)
        changed = int((~correct(expected, answers(classifier, items))).sum())
        tried.append(f"weights of {bits} bits change {changed:,} of {len(items):,} answers to {kind} texts")
        if changed <= most[kind] * len(items):
            return classifier, stored, f"Size: {', '.join(tried)}."
    raise ArtifactError("expected finite weights, found others\n  what to do: train the student again")


def answers(classifier: Classifier, items: Sequence[Any]) -> NDArray[np.int64]:
    """Return the class of each text, or pair, (texts,), or where it may have several 0 and 1, (texts, classes)."""
    return predict_class(classifier.answer(items)[0], classifier.threshold)


def _round(weights: Arrays, bits: int) -> tuple[Arrays, Arrays]:
    """Return the tensors to store and, in float32, what they are read as. Biases keep all their bits."""
    stored: dict[str, NDArray[Any]] = {}
    rounded: dict[str, NDArray[Any]] = {}
    for name, array in weights.items():
        is_matrix = name.endswith(("_table", "_W", "_R"))
        if bits == 8 and is_matrix:
            groups = np.pad(array.astype(np.float32).ravel(), (0, -array.size % _GROUP)).reshape(-1, _GROUP)
            with np.errstate(over="ignore", invalid="ignore"):
                scales = (np.abs(groups).max(axis=1, keepdims=True) / 127).astype(np.float16)
                whole = np.clip(np.rint(groups / np.where(scales, scales, 1).astype(np.float32)), -127, 127)
                read = whole * scales.astype(np.float32)
            stored[name], rounded[name] = (flat.ravel()[: array.size].reshape(array.shape) for flat in (whole, read))
            stored |= {name: stored[name].astype(np.int8), f"{name}.scale": scales.ravel()}
        else:
            with np.errstate(over="ignore"):
                stored[name] = array.astype(np.float16 if bits == 16 and is_matrix else np.float32)
            rounded[name] = stored[name].astype(np.float32)
    return stored, rounded
