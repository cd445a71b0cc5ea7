"""Local processes with one thread each, on loky (joblib's process pool)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final

from loky import get_reusable_executor
from loky.process_executor import BrokenProcessPool

from potstill.errors import TrainingError
from potstill.executor import Item, Result

_KILL_WITH_PARENT: Final = 1  # prctl's PR_SET_PDEATHSIG
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class LocalProcesses:
    """Works on `workers` items at once, each in a process of its own."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Executor.map`. The processes are killed when the caller stops early or is interrupted."""
        # Where only prediction is installed, there is no console; where nothing has used it, nothing will be drawn.
        console = sys.modules.get("potstill.console")
        arguments = (os.getpid(), None if console is None else console.console.quiet)
        pool = get_reusable_executor(
            max_workers=self.workers, initializer=_start_worker, initargs=arguments, env=_ONE_THREAD
        )
        pending: deque[Future[Any]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= 2 * self.workers:
                    yield _first_result(pending)
            while pending:
                yield _first_result(pending)
        except BrokenProcessPool as error:
            raise TrainingError(
                "a worker was killed (out of memory?)\n"
                "  what to do: end what else uses the memory, or give --workers 1; the same command resumes"
            ) from error
        finally:
            if pending:
                pool.shutdown(kill_workers=True)


def _first_result(pending: deque[Future[Any]]) -> Any:
    result = pending[0].result()  # it stays pending until then: an interrupted caller has something to kill
    pending.popleft()
    return result


def _start_worker(parent: int, quiet: bool | None) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before
            os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    if quiet is not None:
        from potstill.console import console, hide_bars

        console.quiet = quiet
        hide_bars()  # several on one terminal would overwrite each other
