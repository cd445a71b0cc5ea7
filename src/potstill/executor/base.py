"""Where independent pieces of work run: in order in this process, or in several processes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs pieces of work that do not depend on each other.

    A new kind is a file of its own and a line in `executor.EXECUTORS`.
    """

    workers: int
    """How many pieces run at once."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply `work` to every item and yield the results in the order of the items.

        Args:
            work: A function that can be pickled (no closure over models), with results that can be pickled. Its errors
                are raised here.
            items: Read as needed, a few ahead of the workers.

        Raises:
            TrainingError: A worker was killed.
        """


class InOrder:
    """Works on one item after the other, in this process."""

    workers = 1

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Executor.map`."""
        return map(work, items)
