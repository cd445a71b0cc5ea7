"""The teacher's judgement of each text: computed once, kept on disk, shared by epochs, seeds and runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.artifacts import DIGEST_BYTES, alone, digest, read_arrays, write_arrays
from potstill.console import counted
from potstill.data import Examples
from potstill.files import cache_directory
from potstill.teacher import Teacher

_CHUNK: Final = 1 << 14
"""Texts judged before the answers are kept: some minutes' work, which is all that an interruption can lose."""


def teacher_logits(teacher: Teacher, examples: Examples) -> Tensor:
    """Return the teacher's logits for `examples`, asking it only for texts that it has not judged before.

    They are filed under everything that decides them (base, adapters, tokenizer, precision), so a changed teacher
    never gets an older one's answers.

    Args:
        teacher: Who judges.
        examples: The texts; equal ones are judged once.

    Returns:
        Logits, (texts, classes), float32.
    """
    path = cache_directory() / "logits" / teacher.key()
    known = _read(path)
    keys = _text_keys(examples)
    missing: dict[bytes, int] = {}  # where each text that has not been judged stands first
    for number, key in enumerate(keys):
        if key not in known:
            missing.setdefault(key, number)
    new = list(missing)
    with counted("teacher's judgement", len(new)) as advance:
        for start in range(0, len(new), _CHUNK):
            chunk = new[start : start + _CHUNK]
            judged = teacher.logits(examples.take([missing[key] for key in chunk]), on_batch=advance).numpy()
            known |= dict(zip(chunk, judged, strict=True))
            with alone(path):  # what other processes have asked meanwhile stays
                known |= _read(path)
                _write(path, known)
    return torch.from_numpy(np.stack([known[key] for key in keys]))


def judgement(teachers: Sequence[Teacher], examples: Examples, judges: int | None = None) -> Tensor:
    """Return the logits of one teacher, or those of the mean of several teachers' probabilities.

    Args:
        teachers: Who judge.
        examples: The texts.
        judges: How many teachers judge each text; None, or more than there are: all. Which ones, a digest of the text
            decides, whatever stands beside it and in whatever order they come: what they have said of it once is found
            again.

    Returns:
        Logits, (texts, classes), float32.
    """
    judges = _fewer(teachers, judges)
    if judges is None:
        logits = [teacher_logits(teacher, examples) for teacher in teachers]
        return logits[0] if len(logits) == 1 else averaged(logits)
    teachers = sorted(teachers, key=lambda teacher: teacher.key())
    drawn = torch.tensor([int.from_bytes(key) % len(teachers) for key in _text_keys(examples)])
    turn = (torch.arange(len(teachers)) - drawn.unsqueeze(1)) % len(teachers)  # (texts, teachers): whom it meets when
    each = torch.empty(judges, len(examples), len(teachers[0].manifest.label_names))
    for teacher, turns in zip(teachers, turn.T, strict=True):
        asked = (turns < judges).nonzero()[:, 0]
        if len(asked) > 0:
            each[turns[asked], asked] = teacher_logits(teacher, examples.take(asked.tolist()))
    return each[0] if judges == 1 else averaged(list(each))


def joint_key(teachers: Sequence[Teacher], judges: int | None = None) -> str:
    """Return a digest of who judges a text by `judgement`: the teachers and, where not all of them do, how many."""
    keys, judges = [teacher.key() for teacher in teachers], _fewer(teachers, judges)
    return digest(keys if judges is None else [*sorted(keys), f"{judges} each"])


def _fewer(teachers: Sequence[Teacher], judges: int | None) -> int | None:
    """Return how many teachers judge each text where these are fewer than all, else None."""
    return None if judges is None or judges >= len(teachers) else judges


def averaged(logits: Sequence[Tensor]) -> Tensor:
    """Return the logits of the mean of several models' probabilities.

    Hinton et al. 2015 (arXiv 1503.02531), section 5, distil an ensemble: the logarithm of the mean probability is a
    logit, which a temperature softens like a single teacher's. Logits have any common summand; here a text's mean over
    the classes is that of the models' own, so that equal models' average is theirs, and squared distances to a single
    model and to several are of one kind.

    Args:
        logits: Of each model, (texts, classes).

    Returns:
        (texts, classes).
    """
    each = torch.stack(list(logits))  # (models, texts, classes)
    together = each.log_softmax(dim=2).logsumexp(dim=0)
    return together + (each.mean(dim=(0, 2)) - together.mean(dim=1)).unsqueeze(1)


def _text_keys(examples: Examples) -> list[bytes]:
    columns = (examples.texts,) if examples.pairs is None else (examples.texts, examples.pairs)
    return [bytes.fromhex(digest(parts)) for parts in zip(*columns, strict=True)]


def _read(path: Path) -> dict[bytes, NDArray[np.float32]]:
    columns = read_arrays(path)
    if columns is None:
        return {}
    return {key.tobytes(): row for key, row in zip(columns["keys"], columns["logits"], strict=True)}


def _write(path: Path, known: dict[bytes, NDArray[np.float32]]) -> None:
    keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    write_arrays(path, {"keys": keys, "logits": np.stack(list(known.values()))})
