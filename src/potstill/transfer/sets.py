"""The transfer set: texts without labels, each with the source it came from, and the teacher's judgement of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.artifacts import digest
from potstill.data import UNLABELLED, Examples
from potstill.errors import ArtifactError
from potstill.files import write_atomically
from potstill.runtime.directory import TRANSFER_FILE

_METADATA: Final = b"potstill"
_FORMAT: Final = 2


_DAMAGES: Final = (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError, pa.ArrowException)
"""What reading a file that is no transfer set, or no longer one, can end with."""


@dataclass(frozen=True)
class TransferSet:
    """Texts for the student to learn from, kept as Parquet.

    Attributes:
        texts: One text per row.
        pairs: The second text per row for sentence-pair tasks, else None.
        sources: Where each text comes from: `file:NAME`, `sampled:CLASS` (the class that the language model was asked
            for, which is no label) or `perturbed:KIND`.
        dropped: Number of texts that were left out, by reason: `held-out` for those like a text of the selection or
            evaluation split, `repeated` for those that were there already, in the training texts too.
        logits: The teacher's judgement, (texts, classes), float32, where it was asked.
        teacher: Digest of who judged, see `joint_key`.
        held_out: Digest of the texts that it was freed of; None where nobody has done that.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    sources: tuple[str, ...]
    dropped: Mapping[str, int]
    logits: NDArray[np.float32] | None = None
    teacher: str | None = None
    held_out: str | None = None

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.texts)

    @property
    def counts(self) -> dict[str, int]:
        """Count the texts by kind of source (`file`, `sampled`, `perturbed`)."""
        return dict(Counter(source.partition(":")[0] for source in self.sources))

    @property
    def summary(self) -> dict[str, int]:
        """What it holds and what was left out, for reports."""
        return self.counts | {f"left out: {reason}": count for reason, count in self.dropped.items()}

    @property
    def examples(self) -> Examples:
        """The texts, all `UNLABELLED`."""
        return Examples(self.texts, np.full(len(self), UNLABELLED, dtype=np.int64), self.pairs)

    def weights(self, patterns: Mapping[str, float]) -> Tensor:
        """Return each text's weight, (texts,), float32: that of the first pattern its source matches, else 1."""
        deciding = self._deciding(patterns)
        found = {source: 1.0 if pattern is None else patterns[pattern] for source, pattern in deciding.items()}
        return torch.tensor([found[source] for source in self.sources], dtype=torch.float32)

    def idle(self, patterns: Collection[str]) -> list[str]:
        """Return the patterns that decide no text's weight: no source matches, or an earlier pattern does."""
        deciding = set(self._deciding(patterns).values())
        return [pattern for pattern in patterns if pattern not in deciding]

    def _deciding(self, patterns: Collection[str]) -> dict[str, str | None]:
        """Return the first pattern that each source matches; None where there is none."""
        return {
            source: next((pattern for pattern in patterns if fnmatchcase(source, pattern)), None)
            for source in set(self.sources)
        }

    def only(self, patterns: Sequence[str]) -> Self:
        """Return the texts whose source matches one of `patterns`."""
        return self.take([n for n, source in enumerate(self.sources) if any(fnmatchcase(source, p) for p in patterns)])

    def take(self, numbers: Sequence[int]) -> Self:
        """Return the texts with these numbers, counted from 0, in that order."""
        taken = self.examples.take(numbers)
        return replace(
            self,
            texts=taken.texts,
            pairs=taken.pairs,
            sources=tuple(self.sources[n] for n in numbers),
            logits=None if self.logits is None else self.logits[list(numbers)],
        )

    def judged(self, logits: Tensor, teacher: str) -> Self:
        """Return the set with a teacher's logits, (texts, classes)."""
        return replace(self, logits=logits.numpy(), teacher=teacher)

    def save(self, path: Path) -> None:
        """Write the set as Parquet, atomically: columns `text`, `pair`, `source` and, where judged, `logits`.

        The file carries the digest of its content, so that it can be moved and checked by itself.

        Raises:
            ArtifactError: The system refuses. What stood at `path` before is as it was.
        """
        columns: dict[str, Any] = {"text": self.texts, "source": pa.array(self.sources).dictionary_encode()}
        if self.pairs is not None:
            columns["pair"] = self.pairs
        if self.logits is not None:
            flat = pa.array(self.logits.ravel())
            columns["logits"] = pa.FixedSizeListArray.from_arrays(flat, self.logits.shape[1])
        notes = {
            "format": _FORMAT,
            "dropped": dict(self.dropped),
            "teacher": self.teacher,
            "held_out": self.held_out,
            "digest": self._digest(),
        }
        table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(notes)})
        write_atomically(
            path,
            # A page that was altered is noticed before it is unpacked.
            lambda temporary: pq.write_table(table, temporary, compression="zstd", write_page_checksum=True),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Args:
            path: The file, or the directory it is in.

        Raises:
            ArtifactError: It is missing, altered or damaged, or is no transfer set.
        """
        file = path / TRANSFER_FILE if path.is_dir() else path
        try:
            table = pq.ParquetFile(file, page_checksum_verification=True).read()
            table.validate(full=True)  # strings that are no UTF-8 surface here
            notes = json.loads((table.schema.metadata or {})[_METADATA])
            if notes["format"] != _FORMAT:
                raise ValueError(f"format {notes['format']}")
            columns = {name: table[name] for name in table.column_names}
            logits = columns.get("logits")
            found = cls(
                texts=tuple(columns["text"].to_pylist()),
                pairs=tuple(columns["pair"].to_pylist()) if "pair" in columns else None,
                sources=tuple(columns["source"].to_pylist()),
                dropped=notes["dropped"],
                logits=None if logits is None else np.stack(logits.to_numpy()).astype(np.float32),
                teacher=notes["teacher"],
                held_out=notes["held_out"],
            )
            if found._digest() != notes["digest"]:
                raise ValueError("it was altered: its digest is not that of its content")
        except _DAMAGES as error:
            raise ArtifactError(
                f"{file}: expected a transfer set, found none that can be read ({type(error).__name__}: {error})\n"
                f"  what to do: name what `potstill transfer` wrote, or let it write the set again"
            ) from None
        return found

    def _digest(self) -> str:
        """Return a digest of all that is kept."""
        logits = None if self.logits is None else (self.logits.dtype.str, self.logits.shape)
        shape = (len(self), self.pairs is not None, sorted(self.dropped.items()), self.teacher, logits)
        values = b"" if self.logits is None else self.logits.tobytes()
        freed = [] if self.held_out is None else [self.held_out]
        return digest([str(shape), *freed, *self.texts, *(self.pairs or ()), *self.sources, values])
