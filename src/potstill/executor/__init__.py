"""Where independent pieces of work run."""

from __future__ import annotations

from collections.abc import Callable

from potstill.errors import ConfigError
from potstill.executor.base import Executor, InOrder

__all__ = ["EXECUTORS", "Executor", "InOrder", "make_executor"]


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
