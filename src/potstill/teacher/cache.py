"""A teacher's logits, kept on disk: each text is asked once for all epochs, seeds and runs.

The answers to some thousand texts are a file, a shard. It is written once, whole, and no process waits for another.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from potstill.console import counted
from potstill.data import Examples
from potstill.store.cache import cache_directory, read_arrays, write_arrays
from potstill.store.checksums import KEY_BYTES, digest
from potstill.teacher.base import Teacher

_CHUNK: Final = 1 << 14
"""Texts of a shard: some minutes' work, the most that an interruption can lose."""


class CachedTeacher(Teacher):
    """Asks another teacher only for texts that it has not answered before.

    Answers are filed under the teacher's key, so a changed teacher never gets an older one's. The texts
    of a damaged shard are asked again. Their logits may differ in the last bits: those of a transformer depend on which
    texts share a batch.
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
        columns = (examples.texts,) if examples.pairs is None else (examples.texts, examples.pairs)
        keys = [bytes.fromhex(digest(parts)) for parts in zip(*columns, strict=True)]
        first: dict[bytes, int] = {}  # position of each text's first occurrence
        for place, key in enumerate(keys):
            first.setdefault(key, place)
        logits, missing = np.empty((len(keys), len(self.label_names)), np.float32), dict(first)
        directory = cache_directory() / "logits"
        for path in sorted(directory.glob(f"{glob.escape(self.key)}*")):
            if not missing:
                break
            if (shard := read_arrays(path)) is None:  # it is damaged
                with suppress(OSError):
                    path.unlink()
                continue
            for key, row in zip(map(bytes, shard["keys"]), shard["logits"], strict=True):
                if key in missing:
                    logits[missing.pop(key)] = row
        new, places = list(missing), list(missing.values())
        with counted("labelling", len(new)) as advance:
            for start in range(0, len(new), _CHUNK):
                content, chunk = b"".join(new[start : start + _CHUNK]), places[start : start + _CHUNK]
                answers = self.teacher.logits(examples.take(chunk), cached=False, on_batch=advance)
                shard = {"keys": np.frombuffer(content, np.uint8).reshape(-1, KEY_BYTES), "logits": answers}
                write_arrays(directory / f"{self.key}.{digest([content])}", shard)
                logits[chunk] = answers
        return logits[[first[key] for key in keys]]
