"""Several processes for one computation, each with one thread.

Threads that share a product wait for each other at its end, and much that is not a product is done by one of them
alone. Processes that have work of their own wait for nobody. They are forked: they see the same weights and data,
without a copy.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import torch

from potstill.errors import TrainingError
from potstill.training.progress import hide_bars

Item = TypeVar("Item")
Result = TypeVar("Result")
Map = Callable[[Iterable[Item]], Iterator[Result]]
"""Applies a function to items, a few of them at a time, and yields what it returns in their order."""

_KILL_WITH_PARENT: Final = 1  # prctl's PR_SET_PDEATHSIG

_work: Callable[[Any], Any] | None = None
"""In a worker: what it does with what it is given."""


def available_workers(device: torch.device) -> int:
    """Return how many processes may compute at once: as many as PyTorch may use threads.

    One where forking is no good: outside Linux, and where a GPU computes.
    """
    return torch.get_num_threads() if device.type == "cpu" and sys.platform == "linux" else 1


@contextmanager
def workers(
    work: Callable[[Item], Result], count: int, *, ending: signal.Signals = signal.SIGKILL
) -> Iterator[Map[Item, Result]]:
    """Yield what lets `count` processes `work` on items; with one, it is done here.

    The processes are forked when the first item is there: they know what the caller knew then.

    Args:
        work: Gets an item and returns what can be pickled. What it raises is raised again where its result is awaited.
        count: Processes.
        ending: What they get where nobody waits any more for what they still compute.

    Raises:
        TrainingError: A worker was killed: what the system does where memory is used up.
    """
    if count == 1:
        yield lambda items: map(work, items)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _begin, (work,))
    try:
        yield lambda items: _in_order(pool, items, count)
    except BrokenProcessPool:
        raise TrainingError(
            "a process that computed for this one was ended from outside: most often memory is used up\n"
            "  what to do: end what else uses the memory, or set OMP_NUM_THREADS=1 to compute in this process alone"
        ) from None
    finally:
        for process in set(multiprocessing.active_children()) - others:
            if process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, ending)
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, items: Iterable[Item], count: int) -> Iterator[Any]:
    """Yield results in the items' order, and take no more of these than keep the workers busy."""
    awaited: deque[Future[Any]] = deque()
    for item in items:
        awaited.append(pool.submit(_do, item))
        if len(awaited) > count:
            yield awaited.popleft().result()
    while awaited:
        yield awaited.popleft().result()


def _begin(work: Callable[[Any], Any]) -> None:
    """Make a forked process a worker."""
    global _work
    _work = work
    ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    torch.set_num_threads(1)  # OpenMP's threads don't outlive a fork, nor do those of `tokenizers`
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    hide_bars()  # several on one terminal would overwrite each other


def _do(item: Any) -> Any:
    if _work is None:
        raise RuntimeError("expected a worker that has begun")
    return _work(item)
