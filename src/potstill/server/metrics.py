"""What `/metrics` tells Prometheus. Each application has its own registry: two in one process don't mix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

if TYPE_CHECKING:  # a worker reports to its metrics
    from potstill.server.batching import Worker

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Bounds from a student's answer to the default deadline."""
_TEXTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # memory, processor time, open files
        self._requests = Counter(
            "potstill_requests", "Requests answered or given up.", ["route", "status"], registry=self._registry
        )
        self._request_seconds = Histogram(
            "potstill_request_seconds", "From headers to answer.", ["route"], registry=self._registry, buckets=_SECONDS
        )
        self._batch_texts = Histogram(
            "potstill_batch_texts", "Texts computed at once.", ["model"], registry=self._registry, buckets=_TEXTS
        )
        self._batch_seconds = Histogram(
            "potstill_batch_seconds", "One computation.", ["model"], registry=self._registry, buckets=_SECONDS
        )
        self._broken_off = Counter(
            "potstill_batches_broken_off",
            "Times that an error broke a worker's batch off; it went on.",
            ["model"],
            registry=self._registry,
        )
        self._waiting = Gauge("potstill_queue_texts", "Texts that wait.", ["model"], registry=self._registry)
        self._alive = Gauge("potstill_worker_alive", "1 while it takes texts.", ["model"], registry=self._registry)

    def watch(self, worker: Worker) -> None:
        """Ask a worker how it is whenever `/metrics` is read."""
        self._waiting.labels(worker.model.name).set_function(lambda: worker.waiting)
        self._alive.labels(worker.model.name).set_function(lambda: worker.is_alive)
        self._broken_off.labels(worker.model.name)  # shown from the start: a rate needs its 0

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, status).inc()
        self._request_seconds.labels(route).observe(seconds)

    def batch(self, model: str, texts: int, seconds: float) -> None:
        """Count a batch; safe from any thread."""
        self._batch_texts.labels(model).observe(texts)
        self._batch_seconds.labels(model).observe(seconds)

    def broken_off(self, model: str) -> None:
        """Count a batch that came to nothing; safe from any thread."""
        self._broken_off.labels(model).inc()

    def exposition(self) -> bytes:
        """Write all of it down as Prometheus reads it."""
        return generate_latest(self._registry)
