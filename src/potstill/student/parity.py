"""The proof that a student's ONNX graph computes what PyTorch computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from potstill.errors import ArtifactError
from potstill.predict.session import open_session, pad, reads_tokens, run
from potstill.student.base import Network

TOLERANCE: Final = 1e-4
"""Largest difference of a logit that passes, of logits beyond 1 its share of the largest: far above float32's rounding,
far below what changes a prediction."""

Batches = Sequence[Sequence[int]]
"""Lengths of the texts of each batch."""

PROOF_BATCHES: Final[Batches] = ((1,), (7,), (4, 4, 4), (1, 9, 3), (12, 1, 1, 5, 30), tuple(range(1, 33)))
"""What the proof computes: one text, one token, equal lengths, ragged, sorted and not."""


def prove_parity(student: Network, model_bytes: bytes, seed: int, batches: Batches = PROOF_BATCHES) -> float:
    """Compare a student's serialised ONNX model with it on random ids; return the largest difference of a logit.

    Raises:
        ArtifactError: It is above `TOLERANCE`, or a logit is not finite.
    """
    reference = copy.deepcopy(student).cpu().float().eval()  # the caller's may train on, on another device
    session = open_session(model_bytes, threads=1)
    generator = np.random.default_rng(seed)
    worst = 0.0
    for lengths in batches:
        sequences = [generator.integers(student.spec.vocab_size, size=length).tolist() for length in lengths]
        ids, sizes = pad(sequences, student.spec.pad_token_id)
        mask = np.arange(ids.shape[1]) < sizes[:, None]  # (batch, length)
        ngrams = None
        if student.spec.ngram_size:
            rows = generator.integers(student.spec.ngram_buckets, size=(len(lengths), 3 * max(lengths)))
            ngrams = rows, generator.random(rows.shape, np.float32)
        with torch.inference_mode():
            inputs = map(torch.from_numpy, (ids, mask, *(ngrams or ())))
            expected = reference(*inputs).numpy()  # (batch, classes)
        found = run(session, sequences if reads_tokens(session) else None, student.spec.pad_token_id, ngrams)
        difference = float(np.abs(expected - found).max())
        allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if not (np.isfinite(expected).all() and difference <= allowed):  # also where one is NaN
            raise ArtifactError(
                f"the ONNX model differs from the student it was made from: logits within {allowed:.2g} expected, "
                f"{difference:.2g} found on a batch of lengths {list(lengths)[:40]}\n"
                "  what to do: check that the student's weights are finite; if they are, please report this with the "
                "versions of torch, onnx and onnxruntime"
            )
        worst = max(worst, difference)
    return worst
