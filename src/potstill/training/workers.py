"""Several processes for one computation, each with one thread.

Threads that share a product wait for each other at its end, and much that is not a product is done by one of them
alone. Processes that have work of their own wait for nobody. They are forked: they see the same weights and data,
without a copy.

Each has a pipe of its own and gets an item when it has nothing to do, so that none holds a lock which another needs:
any of them can be killed at any time.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, TypeVar

import torch

from potstill.console import hide_bars, print_line
from potstill.errors import TrainingError

Item = TypeVar("Item")
Result = TypeVar("Result")
Map = Callable[[Iterable[Item]], Iterator[Result]]
"""Applies a function to items, a few of them at a time, and yields what it returns in their order."""

_KILL_WITH_PARENT: Final = 1  # prctl's PR_SET_PDEATHSIG


def available_workers(device: torch.device) -> int:
    """Return how many processes may compute at once: as many as PyTorch may use threads.

    One where forking is no good: outside Linux, and where there is a GPU, even if it is not the one that computes: a
    gradient that was computed before has started threads for it.
    """
    forks = device.type == "cpu" and sys.platform == "linux" and not torch.cuda.is_available()
    return torch.get_num_threads() if forks else 1


@contextmanager
def workers(
    work: Callable[[Item], Result], count: int, *, keeps_unfinished: bool = False
) -> Iterator[Map[Item, Result]]:
    """Yield what lets `count` processes `work` on items; with one, it is done here.

    The processes are forked when the first item is there: they know what the caller knew then.

    Args:
        work: Gets an item and returns what can be pickled. What it raises is raised again as soon as it is known.
        count: Processes.
        keeps_unfinished: Whether `work` is `stoppable` (as a worker) and keeps what it has done: where nobody waits any
            more for what is still computed, it is then asked to end, else it is ended.

    Raises:
        TrainingError: A worker was killed: what the system does where memory is used up.
    """
    if count == 1:
        yield lambda items: map(work, items)
        return
    crew = _Crew(work, count)
    try:
        yield crew.results
        keeps_unfinished = False
    finally:
        crew.end(gently=keeps_unfinished)


class _Crew:
    """Processes at work.

    Attributes:
        idle: Those that have nothing to do, by their pipes.
        busy: The others, with the number of the item that each works on.
    """

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        self._work, self._count = work, count
        self.idle: dict[Connection, BaseProcess] = {}
        self.busy: dict[Connection, tuple[BaseProcess, int]] = {}

    def results(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield results in the items' order, and take few more of these than keep the workers busy."""
        waiting = enumerate(items)
        done: dict[int, Any] = {}
        taken = given = 0
        more = True
        while more or self.busy:
            while more and len(self.busy) < self._count and taken - given < 2 * self._count:
                number, item = next(waiting, (-1, None))
                if number < 0:
                    more = False
                else:
                    self._hand_out(number, item)
                    taken += 1
            done.update(self._awaited())
            while given in done:
                yield done.pop(given)
                given += 1

    def _hand_out(self, number: int, item: Any) -> None:
        if not self.idle:
            self._start()
        connection, process = self.idle.popitem()
        self.busy[connection] = (process, number)
        with suppress(BrokenPipeError):  # it was killed meanwhile: `_awaited` finds out
            connection.send(item)

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self._work, theirs, os.getpid()), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # for it: see `_serve`
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.idle[ours] = process

    def _awaited(self) -> Iterator[tuple[int, Any]]:
        """Wait until something is done, and yield it."""
        if not self.busy:
            return
        ready = set(wait([*self.busy, *(process.sentinel for process, _ in self.busy.values())]))
        for connection, (process, number) in list(self.busy.items()):
            if connection not in ready and process.sentinel not in ready:
                continue
            try:
                succeeded, result = connection.recv()
            except (EOFError, OSError):
                raise TrainingError(
                    "a process that computed for this one was ended from outside: most often memory is used up\n"
                    "  what to do: end what else uses the memory, or lower the number of processes, "
                    "which is that of threads, with OMP_NUM_THREADS"
                ) from None
            del self.busy[connection]
            self.idle[connection] = process
            if not succeeded:
                raise result
            yield number, result

    def end(self, *, gently: bool) -> None:
        """End all processes; `gently`: those that work may keep what they have done, unless one is told once more."""
        try:
            if gently and self.busy:
                print_line("stopping after this step; once more stops at once")
                for process, _ in self.busy.values():
                    process.terminate()
                for connection, (process, _) in self.busy.items():
                    wait([connection, process.sentinel])
        finally:
            for process in [*self.idle.values(), *(process for process, _ in self.busy.values())]:
                process.kill()
                process.join()
            for connection in [*self.idle, *self.busy]:
                connection.close()
            self.idle, self.busy = {}, {}


def _serve(work: Callable[[Any], Any], connection: Connection, parent: int) -> None:
    """Be a worker, until killed."""
    ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # even if its parent is deaf; blocked until `stoppable` hears it
    torch.set_num_threads(1)  # OpenMP's threads don't outlive a fork, nor do those of `tokenizers`
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    hide_bars()  # several on one terminal would overwrite each other
    while True:
        item = connection.recv()
        try:
            outcome = (True, work(item))
        except Exception as error:  # whatever it is, who waits for the result gets it
            outcome = (False, error)
        connection.send(outcome)
