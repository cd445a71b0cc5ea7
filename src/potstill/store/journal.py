"""A journal: records that are appended to a file one by one, for results that cost money or long waiting.

Each line is a digest and a record in JSON. A line that a kill cut short, or that was damaged, counts as missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from potstill.store.atomic import os_errors
from potstill.store.checksums import digest


class Journal:
    """The records at `path`. Several processes may append to it at once; each sees those of before it opened it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Any]:
        """Read the records."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            for line in file:
                found, _, record = line.rstrip(b"\n").partition(b" ")
                if record and found == digest([record]).encode("ascii"):
                    yield json.loads(record)

    def append(self, record: Any) -> None:
        """Append a record that JSON can hold, so that it outlives a kill of the process.

        Raises:
            ArtifactError: The system refuses.
        """
        content = json.dumps(record, separators=(",", ":")).encode("utf-8")
        line = b"\n%s %s" % (digest([content]).encode("ascii"), content)  # the line feed ends what a kill cut short
        with os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(line)

    def clear(self) -> None:
        """Forget all records."""
        self.path.unlink(missing_ok=True)
