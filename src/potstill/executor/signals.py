"""Ctrl-C and SIGTERM: a training writes a checkpoint before it ends, everything else ends at once.

The command line wraps its work into `handle_signals`. Library callers keep Python's default signal handling.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what `kill`, service managers and batch systems send first."""


class Stopped(KeyboardInterrupt):
    """A signal ended the work. `except Exception` does not catch it.

    Attributes:
        number: The signal's.
        kept: What of an unfinished training was kept, in words.
        directory: Where the same command goes on.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.kept = ""
        self.directory: Path | None = None

    @property
    def status(self) -> int:
        """The exit status of a program that this signal ended, as shells have it: 130 or 143."""
        return 128 + self.number


Request = Callable[[], Stopped | None]
"""Returns what to raise once the work is saved; None: no signal has come."""


class _Handler:
    def __init__(self) -> None:
        self.defers = False
        self.deferred: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if not self.defers or self.deferred is not None:
            raise Stopped(number)
        self.deferred = number
        with suppress(OSError, ValueError):
            # Not through Python's streams: the signal may have come while one of them was being written to.
            os.write(sys.stderr.fileno(), b"\nstopping after this step; press Ctrl-C again to abort\n")

    def request(self) -> Stopped | None:
        return None if self.deferred is None else Stopped(self.deferred)


_handlers: Final[list[_Handler]] = []  # the last one is active


@contextmanager
def handle_signals() -> Iterator[None]:
    """Raise `Stopped` on Ctrl-C and SIGTERM, or let them wait inside `defer_signals`. A context, or a decorator.

    For the main thread only. Ignored signals stay ignored: a shell starts background commands with Ctrl-C ignored.
    """
    handler = _Handler()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number, previous in before.items() if previous is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handler)
    _handlers.append(handler)
    try:
        yield
    finally:
        _handlers.remove(handler)
        for number in handled:
            signal.signal(number, before[number])


@contextmanager
def defer_signals() -> Iterator[Request]:
    """Let the first signal wait until the end of the block, or until the caller raises what the request returns.

    Without `handle_signals` around it, nothing is ever requested.
    """
    if not _handlers:
        yield lambda: None
        return
    handler = _handlers[-1]
    handler.defers = True
    try:
        yield handler.request
    finally:
        handler.defers = False
    if (stopped := handler.request()) is not None:
        raise stopped
