"""The ONNX model's contract (names, types, padding) and its session, for the export's proof and the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime

INPUT_IDS: Final = "input_ids"
"""int64 (batch, length), padded on the right."""
LENGTHS: Final = "lengths"
"""int32 (batch,), the number of real tokens; int32 because that is the type of ONNX's `sequence_lens`."""
LOGITS: Final = "logits"
"""float32 (batch, classes)."""

EXTERNAL: Final = b"location"
"""The key under which an ONNX tensor names the file that its values are in. The format keeps a string in one piece: a
model without these bytes names no file. https://github.com/onnx/onnx/blob/main/docs/ExternalData.md"""

_ERRORS_ONLY: Final = 3


def open_session(model: bytes, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open a model for the CPU, without telemetry and without warnings on the console.

    Args:
        model: Serialised.
        threads: Threads of one call; none: onnxruntime decides (one per core).
    """
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads or 0  # 0 is onnxruntime's own choice
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not what the first bytes make it guess
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(
    session: onnxruntime.InferenceSession, sequences: Sequence[Sequence[int]], padding_id: int
) -> npt.NDArray[np.float32]:
    """Classify one batch of sequences of at least one id each; returns the logits, (batch, classes)."""
    input_ids, lengths = pad(sequences, padding_id)
    (logits,) = session.run([LOGITS], {INPUT_IDS: input_ids, LENGTHS: lengths})
    result: npt.NDArray[np.float32] = logits
    return result


def pad(sequences: Sequence[Sequence[int]], padding_id: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Pad on the right to the longest; returns the ids, (batch, length), and the lengths, (batch,)."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
    input_ids = np.full((len(sequences), lengths.max()), padding_id, dtype=np.int64)
    for row, sequence in zip(input_ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return input_ids, lengths
