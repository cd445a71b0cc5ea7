"""The student with weights of 8 bits, and whether that is worth having: measured, not assumed."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.numpy_helper import from_array, to_array
from onnxruntime.quantization import QuantType, quantize_dynamic

from potstill.data import Examples
from potstill.evaluation import compute_metrics
from potstill.models import StudentModel
from potstill.runtime import Classifier
from potstill.runtime.decision import decide, softmax

MCC_TOLERANCE: Final = 0.01
"""Largest difference of the MCC, to either side: a handful of answers among the eight hundred texts of a usual
selection split, far less than another seed would change."""

_OPERATORS: Final = ("Gather", "MatMul", "LSTM")
"""What holds weights and has an 8-bit form in onnxruntime. GRU and RNN have none; their embeddings shrink all the
same."""

_ROUNDS: Final = 5
"""Both variants in turn; the median of so many ratios does not follow one disturbed round."""
_TIMED_TEXTS: Final = 1024
"""Enough for some hundredths of a second a round with a fast student, and for seconds at most with a slow one."""
_NOTICEABLE: Final = 0.1
"""Share by which size or rate must differ before it counts: timing on a machine at work is not much better."""


@dataclass(frozen=True)
class Trial:
    """A student's 8-bit variant against its float32, on the selection split.

    Attributes:
        bytes_float32: Size of the graph.
        bytes_int8: Likewise.
        mcc_float32: MCC on the selection split.
        mcc_int8: Likewise.
        speed: Sentences a second of the 8-bit variant over those of float32, end to end, one thread.
        agreement: Share of texts that both answer alike.
        texts: Texts of the selection split.
    """

    bytes_float32: int
    bytes_int8: int
    mcc_float32: float
    mcc_int8: float
    speed: float
    agreement: float
    texts: int

    @property
    def problem(self) -> str | None:
        """Say why the variant is not worth having; None: it is."""
        if not abs(self.mcc_int8 - self.mcc_float32) <= MCC_TOLERANCE:
            return f"its MCC is not within {MCC_TOLERANCE} of float32's"
        gains = (self.bytes_float32 / self.bytes_int8 - 1, self.speed - 1)
        if min(gains) < -_NOTICEABLE:
            return "it is slower" if gains[1] < gains[0] else "it is larger"
        if max(gains) < _NOTICEABLE:
            return "it is neither smaller nor faster to speak of"
        return None

    def describe(self) -> str:
        """Say in words what was measured."""
        return (
            f"{self.bytes_int8 / 1e6:.2f} MB against {self.bytes_float32 / 1e6:.2f} MB, {self.speed:.1f} times as many "
            f"texts a second, MCC {self.mcc_int8:.3f} against {self.mcc_float32:.3f} and the same answer to "
            f"{self.agreement:.1%} of the {self.texts:,} texts of the selection split"
        )


def quantise(graph: bytes) -> bytes:
    """Give a graph weights of 8 bits; what is computed from them is quantised as it comes (`quantize_dynamic`).

    Weights get no sign: where a processor has no VNNI, the product of unsigned activations and signed weights adds two
    of its terms in 16 bits, which saturate.
    """
    model = onnx.load_from_string(graph)
    # Says that there is nothing to prepare: the graph is written node by node and holds no shape that is not known.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "model.onnx"
        quantize_dynamic(model, file, op_types_to_quantize=list(_OPERATORS), weight_type=QuantType.QInt8)
        quantised = onnx.load(file)
    for tensor in quantised.graph.initializer:  # weights and their zero points, so that nothing else changes
        if tensor.data_type == onnx.TensorProto.INT8:  # `quantize_dynamic` has no other type for an LSTM's
            unsigned = (to_array(tensor).astype(np.int16) + 128).astype(np.uint8)
            tensor.CopyFrom(from_array(unsigned, tensor.name))
    content: bytes = quantised.SerializeToString()
    return content


def compare(
    float32: Classifier, int8: Classifier, sizes: tuple[int, int], selection: Examples, rounds: int = _ROUNDS
) -> Trial:
    """Let both answer the selection split.

    Args:
        float32: The student.
        int8: The same with 8 bits.
        sizes: Bytes of their graphs.
        selection: Labelled texts that have not been learnt from.
        rounds: How often their speed is measured, in turn.
    """
    answers = [_answers(classifier, selection) for classifier in (float32, int8)]
    scores = [compute_metrics(selection.labels, found, len(float32.labels)).mcc for found in answers]
    timed = selection.take(range(min(len(selection), _TIMED_TEXTS)))
    ratios = [_seconds(float32, timed) / _seconds(int8, timed) for _ in range(rounds)]
    return Trial(
        bytes_float32=sizes[0],
        bytes_int8=sizes[1],
        mcc_float32=scores[0],
        mcc_int8=scores[1],
        speed=statistics.median(ratios),
        agreement=float(np.mean(answers[0] == answers[1])),
        texts=len(selection),
    )


def _answers(classifier: Classifier, examples: Examples) -> NDArray[np.int64]:
    logits = StudentModel(classifier).logits(examples)
    return decide(softmax(logits, classifier.temperature), classifier.threshold)


def _seconds(classifier: Classifier, examples: Examples) -> float:
    started = time.perf_counter()
    StudentModel(classifier).logits(examples)
    return time.perf_counter() - started
