"""What happens to every request: an id, one line in the log, a count, and an answer even where the code is wrong."""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
import uuid
from typing import Any, Final

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from potstill.server.metrics import Metrics
from potstill.server.problems import Refusal

_logger = logging.getLogger("potstill.server")

_HEADER: Final = "X-Request-ID"
_GOOD_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)
"""An id that may be repeated in headers and logs; any other is replaced."""

CLIENT_GONE: Final = 499
"""Status in the log of a request whose client did not wait for the answer; nginx's custom."""


def request_id(request: Request) -> str:
    """Return the id of a request that passed the middleware."""
    identity: str = request.state.request_id
    return identity


class Observed:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        run = uuid.uuid4().hex[:12]
        self._ids = (f"{run}-{number}" for number in itertools.count(1))  # unlike a random id, costs no system call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(_HEADER, "")
        identity = given if _GOOD_ID.fullmatch(given) else next(self._ids)
        scope.setdefault("state", {}).update(request_id=identity, logged={})
        status, started = CLIENT_GONE, time.perf_counter()

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[_HEADER] = identity
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        except Exception:
            _logger.exception("request %s failed", identity)
            if status != CLIENT_GONE:  # an answer has begun: it can only be cut off
                raise
            await _FAILURE.response(identity)(scope, receive, send_observed)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")  # a path that no route has could be anything
            self._metrics.request(route, status, seconds)
            self._log(scope, status, seconds)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        """Write the request's line: sizes and names, none of its texts."""
        state = scope["state"]
        fields = {
            "request_id": state["request_id"],
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1e3, 2),
            **state["logged"],
        }
        _logger.info("request", extra={"fields": fields})


_FAILURE: Final = Refusal(
    500,
    "internal error",
    expected="an answer",
    found="an error of the server",
    what_to_do="look for the request id in the server's log, and report what is found there",
)


class JsonLines(logging.Formatter):
    """Writes each record as one JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: time (UTC), level, message, the record's `fields`, the traceback where there is one."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        content: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)
