"""The ONNX model's contract (names, types, padding) and its session, for the export's proof and the classifier."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from potstill.errors import ArtifactError

INPUT_IDS: Final = "input_ids"
"""int64 (batch, length), padded on the right."""
LENGTHS: Final = "lengths"
"""int32 (batch,), the number of real tokens; int32 because that is the type of ONNX's `sequence_lens`."""
NGRAM_ROWS: Final = "ngram_rows"
"""int64 (batch, ngrams): rows of the table of n-grams; only students that read n-grams have these two inputs."""
NGRAM_WEIGHTS: Final = "ngram_weights"
"""float32 (batch, ngrams): how much each n-gram counts; 0 in padded places."""
LOGITS: Final = "logits"
"""float32 (batch, classes)."""

EXTERNAL: Final = b"location"
"""The key under which an ONNX tensor names the file that its values are in. The format keeps a string in one piece: a
model without these bytes names no file. https://github.com/onnx/onnx/blob/main/docs/ExternalData.md"""

_ERRORS_ONLY: Final = 3
CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""A container's quota; groups within, as of a systemd unit, have theirs in directories beside it."""
OWN_GROUP: Final = Path("/proc/self/cgroup")


def open_session(model: bytes, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open a model for the CPU, without telemetry and without warnings on the console.

    Args:
        model: Serialised.
        threads: Threads of one call; none: one per available core.
    """
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads or available_cores()  # onnxruntime would count the cores of the host
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not what the first bytes make it guess
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(
    session: onnxruntime.InferenceSession,
    sequences: Sequence[Sequence[int]] | None,
    pad_token_id: int,
    ngrams: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None = None,
) -> npt.NDArray[np.float32]:
    """Classify one batch.

    Args:
        session: Of `open_session`.
        sequences: Token ids, at least one of each text; None for students that read n-grams alone.
        pad_token_id: What fills short sequences up.
        ngrams: Rows and weights of `predict.ngrams.Ngrams.padded`, for students that read n-grams.

    Returns:
        Logits, (batch, classes).

    Raises:
        ArtifactError: The model can't compute them.
    """
    given: dict[str, npt.NDArray[Any]] = {}
    if sequences is not None:
        given[INPUT_IDS], given[LENGTHS] = pad(sequences, pad_token_id)
    if ngrams is not None:
        given[NGRAM_ROWS], given[NGRAM_WEIGHTS] = ngrams
    try:
        (logits,) = session.run([LOGITS], given)
    except Exception as error:  # onnxruntime's errors share no public base class
        raise no_logits(error) from None
    result: npt.NDArray[np.float32] = logits
    return result


def no_logits(found: object) -> ArtifactError:
    """Say what a graph gave in place of logits."""
    return ArtifactError(
        f"expected logits from the student's graph, found {found}\n"
        "  what to do: save the student again; if memory ran out, classify fewer texts at once"
    )


def reads_tokens(session: onnxruntime.InferenceSession) -> bool:
    """Say whether a student reads tokens, or n-grams alone."""
    return any(node.name == INPUT_IDS for node in session.get_inputs())


def pad(sequences: Sequence[Sequence[int]], pad_token_id: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Pad on the right to the longest; returns the ids, (batch, length), and the lengths, (batch,)."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
    input_ids = np.full((len(sequences), lengths.max()), pad_token_id, dtype=np.int64)
    for row, sequence in zip(input_ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return input_ids, lengths


def available_cores() -> int:
    """Count the cores that this process may use, by its affinity and by its container's quota.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = PurePosixPath("/")
    with suppress(OSError, ValueError):
        own = PurePosixPath(OWN_GROUP.read_text().rpartition("0::")[2].strip() or "/")
    for group in (own, *own.parents):  # each of which may have a quota
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            quota, period = (CPU_QUOTA.parent / group.relative_to("/") / CPU_QUOTA.name).read_text().split()
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)
