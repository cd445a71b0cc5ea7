"""The log, Prometheus' metrics, the check of the Host header, and an explained answer to unexpected errors."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from asgi_correlation_id import CorrelationIdMiddleware
from asgi_correlation_id.context import correlation_id
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector
from prometheus_fastapi_instrumentator import Instrumentator, metrics
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from potstill.serve.problems import Refusal

_logger = logging.getLogger("potstill.serve")

CLIENT_GONE: Final = 499
"""Status in the log of a request whose client did not wait for the answer; nginx's custom."""
_GOOD_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)
"""An id that may be repeated in headers and logs; any other is replaced."""
_PROBES: Final = ("/healthz", "/readyz")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Bounds from a student's answer to the default deadline."""


def request_id() -> str:
    """Return the current request's id."""
    return correlation_id.get() or ""


class ModelMetrics:
    """Prometheus' metrics of models. Each application has its own registry: two in one process don't mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        names: dict[str, Any] = {"labelnames": ["model"], "registry": self.registry}
        self.texts = Counter("potstill_texts", "Texts computed.", **names)
        self.seconds = Histogram("potstill_compute_seconds", "One piece of a request.", buckets=_SECONDS, **names)
        self.failures = Counter("potstill_model_failures", "Pieces on which the model failed.", **names)
        self._under_way = Gauge("potstill_queue_texts", "Texts that wait or are computed.", **names)
        self._ready = Gauge("potstill_model_ready", "1 while the model answers within the deadline.", **names)

    def show(self, model: str, under_way: Callable[[], int], is_ready: Callable[[], bool]) -> None:
        """Show a model from the start: a rate needs its 0."""
        self._under_way.labels(model).set_function(under_way)
        self._ready.labels(model).set_function(is_ready)
        self.failures.labels(model)


def observe(app: FastAPI, registry: CollectorRegistry, allowed_hosts: tuple[str, ...], **route: Any) -> None:
    """Add ids, log and counts to an application, and `/metrics` with the given settings of its route."""
    labels: dict[str, Any] = {"should_include_method": False, "registry": registry}  # any word can be a method
    instrumentator = Instrumentator(should_group_status_codes=False, registry=registry)
    instrumentator.add(metrics.requests(**labels))
    instrumentator.add(metrics.latency(buckets=_SECONDS, should_include_status=False, **labels))
    instrumentator.instrument(app).expose(app, summary="For Prometheus", **route)
    app.add_middleware(_Observed, allowed_hosts=allowed_hosts)
    app.add_middleware(CorrelationIdMiddleware, validator=None, transformer=_fit_id)


def _fit_id(given: str) -> str:
    return given if _GOOD_ID.fullmatch(given) else uuid4().hex


class _Observed:
    """ASGI middleware: checks the Host header, writes the log, answers where the code is wrong."""

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...]) -> None:
        self._app, self._allowed = app, allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["logged"] = {}
        status, started = CLIENT_GONE, time.perf_counter()

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        host = Headers(scope=scope).get("host", "")
        try:
            if self._allowed and re.sub(r":\d*$", "", host).strip("[]").lower() not in self._allowed:
                expected, remedy = "a Host header with a name of this server", "start it with --allowed-host NAME"
                refusal = Refusal(421, expected, host[:100] or "none", remedy)
                await refusal.response(request_id())(scope, receive, send_observed)
            else:
                await self._app(scope, receive, send_observed)
        except Exception:
            _logger.exception("request %s failed", request_id())
            if status != CLIENT_GONE:  # an answer has begun: it can only be cut off
                raise
            found, remedy = "an error of the server", "look for the request id in the server's log"
            await Refusal(500, "an answer", found, remedy).response(request_id())(scope, receive, send_observed)
        finally:
            _log(scope, status, time.perf_counter() - started)


def _log(scope: Scope, status: int, seconds: float) -> None:
    """Write the request's line: sizes and names, none of its texts. Successful probes have none."""
    if getattr(scope.get("route"), "path", None) in _PROBES and status == 200:
        return
    fields = {
        "request_id": request_id(),
        "client": (scope.get("client") or ("",))[0],
        "method": scope["method"][:20],
        "path": scope["path"][:200],
        "status": status,
        "ms": round(seconds * 1e3, 2),
        **scope["state"]["logged"],
    }
    _logger.info("request", extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Writes each record as one JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: time (UTC), level, message, the record's `fields`, the traceback where there is one."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


class OnceASecond(logging.Filter):
    """Drops warnings and errors that repeat within a second: a client that causes many must not fill the disk."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, object], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record is written; messages are compared without their values."""
        what = (record.name, str(record.msg)[:60])
        if record.levelno < logging.WARNING or record.created - self._last.get(what, 0.0) >= 1:
            self._last = {key: at for key, at in self._last.items() if record.created - at < 1}
            self._last[what] = record.created
            return True
        return False


def log_to_stderr() -> None:
    """Send all logs of the server to standard error, as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    handler.addFilter(OnceASecond())
    for name in ("potstill", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
