"""How much the server holds at a time, how much of that one client may hold, and the threads that compute."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from potstill.predict.tokens import portions
from potstill.serve.problems import Refusal

_logger = logging.getLogger("potstill.serve")

_TEXTS: Final = 64
"""Most texts of a piece: `Classifier` computes as many at once."""
_CHARACTERS: Final = 1 << 14
"""Most characters of a piece of several texts."""

Result = TypeVar("Result")


class ClientQuota:
    """Counts what is held, by client. Not thread-safe: for the event loop alone."""

    def __init__(self, what: str, limit: int, share: float, least: int = 1) -> None:
        """Allow `limit` of `what` (a plural) in all, and each client a `share` of it, but `least` in any case."""
        self.what, self.limit = what, max(limit, least)
        self.per_client = sys.maxsize if share == 1 else max(int(limit * share), least)
        self.held = 0
        self._by_client: Counter[str] = Counter()

    def acquire(self, client: str, amount: int = 1) -> None:
        """Count `amount` for a client.

        Raises:
            Refusal: 429 where the client would hold more than its share, 503 where the server would hold too much.
        """
        if (found := self._by_client[client]) + amount > self.per_client:
            expected = f"at most {self.per_client} {self.what} from one address"
            raise Refusal(429, expected, f"{found} there and {amount} more", "wait for answers before you ask for more")
        if self.held + amount > self.limit:
            expected, remedy = f"at most {self.limit} {self.what}", "try again after Retry-After seconds"
            raise Refusal(503, expected, f"{self.held} there and {amount} more", remedy)
        self.held += amount
        self._by_client[client] += amount

    def release(self, client: str, amount: int = 1) -> None:
        """Count `amount` no more; a client that holds nothing is forgotten."""
        self.held -= amount
        self._by_client[client] -= amount
        if not self._by_client[client]:
            del self._by_client[client]

    @contextmanager
    def hold(self, client: str, amount: int = 1) -> Iterator[None]:
        """Count `amount` for a client until the context ends; see `acquire`."""
        self.acquire(client, amount)
        try:
            yield
        finally:
            self.release(client, amount)


class ModelError(Exception):
    """A model failed on these texts."""


class Workers:
    """Threads that compute pieces of requests.

    Pieces are computed in the order in which they come, but of each client no more are let in at a time than there are
    threads. So a client with much work delays another by a few pieces, not by all of its work.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"potstill-{name}")
        self._doors: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._started: dict[object, float] = {}

    async def run(self, client: str, work: Callable[..., Result], *arguments: Any) -> Result:
        """Compute `work(*arguments)` in a thread; cancelled while it waits, it is not computed.

        Raises:
            ModelError: It failed with anything but a refusal.
        """
        door = self._doors.setdefault(client, asyncio.Semaphore(self._threads))  # gone with the last that needs it
        async with door:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._compute, work, *arguments)

    def busy_for(self) -> float:
        """Return the seconds for which the oldest piece has been computed."""
        now = time.monotonic()
        return now - min([*self._started.values()], default=now)

    def stop(self) -> None:
        """Wait for the threads to end. Blocks."""
        self._pool.shutdown()

    def _compute(self, work: Callable[..., Result], *arguments: Any) -> Result:
        piece = object()
        self._started[piece] = time.monotonic()
        try:
            return work(*arguments)
        except Refusal:
            raise
        except BaseException as error:  # SystemExit too: it would end the event loop that waits for the result
            _logger.exception("model %r failed", self.name)
            raise ModelError(self.name) from error
        finally:
            del self._started[piece]


def pieces(texts: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut a request's texts, or pairs of texts, into pieces; they also bound the memory of tokenising."""
    sizes = (len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts)
    return (texts[part] for part in portions(sizes, _TEXTS, _CHARACTERS))
