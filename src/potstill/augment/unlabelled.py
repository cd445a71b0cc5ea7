"""The unlabelled set: texts without labels, each with its source, and a teacher's logits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from potstill.data import UNLABELLED, Examples
from potstill.errors import ArtifactError
from potstill.predict.directory import UNLABELLED_FILE
from potstill.store.atomic import write_atomically
from potstill.store.checksums import digest

_METADATA: Final = b"potstill"
_FORMAT: Final = 3

_DAMAGES: Final = (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError, pa.ArrowException)
"""Errors of reading a file that is damaged or no unlabelled set."""


@dataclass(frozen=True)
class UnlabelledSet:
    """Texts (or pairs) for the student to learn from, saved as Parquet.

    Attributes:
        sources: Where each text comes from: `file:NAME`, `sampled:CLASS` (the class that the language model was asked
            for, which is no label), `perturbed:KIND`, `words:` or `spans:`.
        dropped: Number of texts that were left out, by reason: `held-out` for those like a text of the validation or
            test split, `repeated` for training texts and duplicates, `time limit` for those that were not sampled or
            labelled in time, `unanswered` for those that the teacher has no answer to.
        logits: A teacher's, (texts, classes), float32; None: it has not been asked.
        teacher: That teacher's key.
        held_out: Digest of the held-out texts that no text resembles; None where none were compared.
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
        """Count the texts by kind of source (`file`, `sampled`, `perturbed`, `words`, `spans`)."""
        return dict(Counter(source.partition(":")[0] for source in self.sources))

    @property
    def summary(self) -> dict[str, int]:
        """What it holds and what was left out, for reports."""
        return self.counts | {f"left out: {reason}": count for reason, count in self.dropped.items()}

    @property
    def texts_key(self) -> str:
        """A digest of the texts and their sources."""
        return digest([*self.sources, *self.examples.content])

    @property
    def examples(self) -> Examples:
        """The texts, all `UNLABELLED`."""
        return Examples(self.texts, np.full(len(self), UNLABELLED, dtype=np.int64), self.pairs)

    def labelled(self, logits: NDArray[np.float32], teacher: str) -> Self:
        """Return the set with the logits of the teacher of that key, (texts, classes)."""
        return replace(self, logits=logits, teacher=teacher)

    def answered(self) -> Self:
        """Return the texts that the teacher has an answer to."""
        if self.logits is None or np.isfinite(self.logits).all():
            return self
        places = np.flatnonzero(np.isfinite(self.logits).all(axis=1))
        return replace(self.take(places, "unanswered"), logits=self.logits[places])

    def take(self, indices: NDArray[np.int64], reason: str) -> Self:
        """Return the texts at `indices`; the others count as left out for `reason`."""
        chosen = indices.tolist()
        return replace(
            self,
            texts=tuple(self.texts[i] for i in chosen),
            pairs=None if self.pairs is None else tuple(self.pairs[i] for i in chosen),
            sources=tuple(self.sources[i] for i in chosen),
            dropped={**self.dropped, reason: self.dropped.get(reason, 0) + len(self) - len(chosen)},
        )

    def save(self, path: Path) -> None:
        """Write the set as Parquet, atomically: columns `text`, `pair`, `source` and, once labelled, `logits`.

        The file carries the digest of its content, so that it can be moved and verified by itself.
        """
        columns: dict[str, Any] = {"text": self.texts, "source": pa.array(self.sources).dictionary_encode()}
        if self.pairs is not None:
            columns["pair"] = self.pairs
        if self.logits is not None:
            flat = pa.array(self.logits.ravel())
            columns["logits"] = pa.FixedSizeListArray.from_arrays(flat, self.logits.shape[1])
        notes = {"format": _FORMAT, **self._notes(), "digest": self._digest()}
        table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(notes)})
        write_atomically(
            path,
            # With checksums of its pages a damaged one is noticed before it is decompressed.
            lambda temporary: pq.write_table(table, temporary, compression="zstd", write_page_checksum=True),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote: `path` is the file, or the directory it is in.

        Raises:
            ArtifactError: It is missing, altered or damaged, or is no unlabelled set.
        """
        file = path / UNLABELLED_FILE if path.is_dir() else path
        try:
            table = pq.ParquetFile(file, page_checksum_verification=True).read()
            table.validate(full=True)  # refuses strings that are no UTF-8
            notes = json.loads((table.schema.metadata or {})[_METADATA])
            if notes.pop("format") != _FORMAT:
                raise ValueError("it is of another version")
            expected = notes.pop("digest")
            strings = [name for name in table.column_names if name != "logits"]
            columns = {name: tuple(table[name].cast(pa.string()).to_pylist()) for name in strings}
            logits = None
            if "logits" in table.column_names:
                column = table["logits"].combine_chunks()
                logits = column.flatten().to_numpy().astype(np.float32).reshape(len(table), column.type.list_size)
            found = cls(columns["text"], columns.get("pair"), columns["source"], logits=logits, **notes)
            if found._digest() != expected:
                raise ValueError("it was altered: its digest is not that of its content")
        except _DAMAGES as error:
            raise ArtifactError(
                f"{file}: expected an unlabelled set, found none that can be read ({type(error).__name__}: {error})\n"
                f"  what to do: name what `potstill augment` wrote, or let it write the set again"
            ) from None
        return found

    def _notes(self) -> dict[str, Any]:
        return {"dropped": dict(self.dropped), "teacher": self.teacher, "held_out": self.held_out}

    def _digest(self) -> str:
        logits = b"" if self.logits is None else self.logits.tobytes()
        shape = (len(self), self.pairs is not None, None if self.logits is None else self.logits.shape)
        notes = json.dumps([shape, self._notes()], sort_keys=True)
        return digest([notes, *self.texts, *(self.pairs or ()), *self.sources, logits])
