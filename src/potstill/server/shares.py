"""One client's share of what the server holds at a time: however much one sends, there is room left for another."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class ShareTakenError(Exception):
    """A client has as much under way as one may have."""

    def __init__(self, taken: int, amount: int, most: int) -> None:
        super().__init__(f"{taken} of {most} taken, {amount} more asked for")
        self.taken, self.amount, self.most = taken, amount, most


class Share:
    """Counts by client, for one thread: the event loop's."""

    def __init__(self, limit: int, share: float, least: int = 1) -> None:
        """Allow every client `share` of `limit`, but `least` in any case. With a share of 1 nothing is refused here."""
        self.most = sys.maxsize if share == 1 else max(int(limit * share), least)
        self._taken: Counter[str] = Counter()

    @contextmanager
    def hold(self, client: str, amount: int = 1) -> Iterator[None]:
        """Count `amount` for a client until the context ends. Nothing is kept of clients that hold nothing.

        Raises:
            ShareTakenError: It would have more than its share.
        """
        taken = self._taken[client]
        if taken + amount > self.most:
            raise ShareTakenError(taken, amount, self.most)
        self._taken[client] += amount
        try:
            yield
        finally:
            self._taken[client] -= amount
            if not self._taken[client]:
                del self._taken[client]

    def __len__(self) -> int:
        """Count the clients that hold something."""
        return len(self._taken)
