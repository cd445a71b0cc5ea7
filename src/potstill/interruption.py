"""Ctrl-C and SIGTERM: a training keeps its state before it ends, all else ends at once.

Nothing is handled on import: who trains through the library keeps Python's own ways. The command line wraps what it
does into `stoppable`.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""What asks for an end: Ctrl-C, and what `kill`, service managers and batch systems send first."""


class Stopped(KeyboardInterrupt):
    """Somebody asked for the end. Like Ctrl-C's own exception it passes by whoever catches errors.

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
        """The exit status of who ended by this signal, as shells have it: 130 or 143."""
        return 128 + self.number


Request = Callable[[], Stopped | None]
"""Returns what to raise as soon as all is kept, where an end was asked for."""


class _Handler:
    """What happens on a signal: an end at once, or a note that one is wanted."""

    def __init__(self) -> None:
        self.waits = False
        self.noted: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if not self.waits or self.noted is not None:
            raise Stopped(number)
        self.noted = number
        with suppress(OSError, ValueError):
            # Not through Python's streams: the signal may have come while one of them was being written to.
            os.write(sys.stderr.fileno(), b"\nstopping after this step; once more stops at once\n")

    def request(self) -> Stopped | None:
        return None if self.noted is None else Stopped(self.noted)


class _WorkersHandler(_Handler):
    """The same in a process that works for another, which tells the user and decides what a second signal means."""

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.noted is None:
            self.noted = number
            if not self.waits:
                raise Stopped(number)


_handlers: Final[list[_Handler]] = []
"""The one at work, if any, is the last."""


@contextmanager
def stoppable(*, is_worker: bool = False) -> Iterator[None]:
    """Raise `Stopped` on Ctrl-C and SIGTERM, or let them wait where somebody has said `postponed`.

    What is ignored stays ignored: a shell starts a command in the background deaf to the terminal's Ctrl-C. For the
    main thread: no other one may handle signals.

    Args:
        is_worker: This process works for another, which kills it if it has to end at once: only a first signal counts.
            SIGTERM, which it blocks before and after, is heard here, even if it came before.
    """
    handler = _WorkersHandler() if is_worker else _Handler()
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    _handlers.append(handler)
    try:
        if is_worker:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        yield
    finally:
        if is_worker:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        _handlers.remove(handler)
        for number, previous in before.items():
            signal.signal(number, previous)


def stoppable_command(command: Callable[..., None]) -> Callable[..., None]:
    """Make all that a command does `stoppable`."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        with stoppable():
            command(*arguments, **options)

    return wrapped


@contextmanager
def postponed() -> Iterator[Request]:
    """Let a first signal wait until somebody has looked at the request and kept what is to be kept, or until the end.

    Without `stoppable` around it, nothing is ever requested.
    """
    if not _handlers:
        yield lambda: None
        return
    handler = _handlers[-1]
    handler.waits = True
    try:
        yield handler.request
    finally:
        handler.waits = False
    if (stopped := handler.request()) is not None:
        raise stopped
