"""Limits on connections, which a client may hold without sending a request."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from potstill.serve.limits import Limits
from potstill.serve.load import ClientQuota
from potstill.serve.problems import Refusal

_logger = logging.getLogger("potstill.serve")

_RECEIVED: Final = 1 << 15
"""Bytes that are received at a time; asyncio's 256 KiB, times the copies on their way, add up over many connections."""
_OTHER_FILES: Final = 64
"""Open files of the process that are no connections: models, logs, libraries, sockets of its own."""


def protocol(limits: Limits, *, behind_proxy: bool = False) -> type[asyncio.Protocol]:
    """Make uvicorn's HTTP protocol with limits on connections. A proxy's address may have all of them."""
    limit = int(max(1, min(limits.max_connections, _open_files() - _OTHER_FILES)))
    shared = ClientQuota("connections", limit, 1.0 if behind_proxy else limits.client_share)

    class Connection(_Connection):
        quota, header_timeout, deadline = shared, limits.header_timeout, limits.deadline

    return Connection


class _Connection(H11Protocol):
    """A connection that counts for its address, and is closed where headers, or reading an answer, take too long."""

    quota: ClientQuota
    header_timeout: float
    deadline: float
    _address: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        with suppress(AttributeError):  # of asyncio's own transports, not of uvloop's
            transport.max_size = _RECEIVED  # type: ignore[attr-defined]
        self._timers: dict[str, asyncio.TimerHandle] = {}
        address = self.client[0] if self.client else ""
        try:
            self.quota.acquire(address)
        except Refusal as refusal:
            _logger.warning("connection closed: %s", refusal, extra={"fields": {"client": address}})
            transport.abort()
            return
        self._address = address
        self._start_timer("headers", self.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        for name in [*self._timers]:
            self._stop_timer(name)
        if self._address is not None:
            self.quota.release(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read; the timer runs from the first byte of a request's headers to their last."""
        self._start_timer("headers", self.header_timeout)
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer("headers")

    def pause_writing(self) -> None:
        """Wait until the client reads what was sent, but not for ever: the rest of the answer is in memory."""
        super().pause_writing()
        self._start_timer("answer", self.deadline)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_timer("answer")

    def _start_timer(self, name: str, seconds: float) -> None:
        if name not in self._timers and self._address is not None:
            self._timers[name] = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()


def _open_files() -> float:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return math.inf
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if soft == resource.RLIM_INFINITY else soft
