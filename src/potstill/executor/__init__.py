"""Where independent pieces of work run: in order in this process, or in several processes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from potstill.errors import ConfigError

__all__ = ["EXECUTORS", "Executor", "InOrder", "make_executor"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs pieces of work that do not depend on each other. A new kind is a line in `EXECUTORS`."""

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


def _local(workers: int) -> Executor:
    from potstill.executor.local import LocalProcesses

    return LocalProcesses(workers)


EXECUTORS: dict[str, Callable[[int], Executor]] = {"none": lambda _: InOrder(), "local": _local}
"""Kinds of executors by the name that `runtime.executor` gives them; each is called with the number of workers."""


def make_executor(kind: str, workers: int) -> Executor:
    """Return the executor that a configuration calls `kind`; one worker runs in this process.

    Raises:
        ConfigError: There is no such executor.
    """
    if kind not in EXECUTORS:
        raise ConfigError([f"runtime.executor: expected one of {', '.join(EXECUTORS)}, found {kind!r}"])
    return InOrder() if workers == 1 else EXECUTORS[kind](workers)
