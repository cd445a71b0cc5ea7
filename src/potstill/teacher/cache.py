"""A teacher's logits, kept on disk: each text is asked once for all epochs, seeds and runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from potstill.console import counted
from potstill.data import Examples
from potstill.store.cache import cache_directory, lock, read_arrays, write_arrays
from potstill.store.checksums import KEY_BYTES, digest
from potstill.teacher.base import Teacher

_CHUNK: Final = 1 << 14
"""Texts labelled before the answers are written: some minutes' work, the most that an interruption can lose."""


class CachedTeacher(Teacher):
    """Asks another teacher only for texts that it has not answered before.

    Answers are filed under the teacher's key, so a changed teacher never gets an older one's. A damaged file is made
    anew. Its logits may then differ in the last bits: those of a transformer depend on which texts share a batch.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        for name in ("label_names", "in_pairs", "backbone", "tokenizer_name", "temperature", "threshold"):
            setattr(self, name, getattr(teacher, name))

    @property
    def key(self) -> str:
        """The other teacher's."""
        return self.teacher.key

    @property
    def parameters(self) -> tuple[int, int]:
        """The other teacher's."""
        return self.teacher.parameters

    def describe(self) -> str:
        """See the other teacher's."""
        return self.teacher.describe()

    def logits(
        self, examples: Examples, *, cached: bool = True, on_batch: Callable[[int], object] = lambda _: None
    ) -> NDArray[np.float32]:
        """Return logits, (texts, classes); equal texts are asked once."""
        if not cached:
            return self.teacher.logits(examples, cached=False, on_batch=on_batch)
        path = cache_directory() / "logits" / self.key
        known = _read(path)
        columns = (examples.texts,) if examples.pairs is None else (examples.texts, examples.pairs)
        keys = [bytes.fromhex(digest(parts)) for parts in zip(*columns, strict=True)]
        missing: dict[bytes, int] = {}  # position of each new text's first occurrence
        for number, key in enumerate(keys):
            if key not in known:
                missing.setdefault(key, number)
        new = list(missing)
        with counted("labelling", len(new)) as advance:
            for start in range(0, len(new), _CHUNK):
                chunk = new[start : start + _CHUNK]
                texts = examples.take([missing[key] for key in chunk])
                answers = self.teacher.logits(texts, cached=False, on_batch=advance)  # they are kept here
                known |= dict(zip(chunk, answers, strict=True))
                with lock(path):
                    known |= _read(path)  # other processes may have written since
                    _write(path, known)
        return np.stack([known[key] for key in keys])


def _read(path: Path) -> dict[bytes, NDArray[np.float32]]:
    columns = read_arrays(path)
    if columns is None:
        return {}
    return {key.tobytes(): row for key, row in zip(columns["keys"], columns["logits"], strict=True)}


def _write(path: Path, known: dict[bytes, NDArray[np.float32]]) -> None:
    keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, KEY_BYTES)
    write_arrays(path, {"keys": keys, "logits": np.stack(list(known.values()))})
