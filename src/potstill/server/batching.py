"""Micro-batching: what several requests ask of a model at about the same time is computed together, by one thread.

    requests ──submit──► queue, bounded in texts ──► worker thread: a batch, one computation ──► their futures

A request's future is an asyncio future. Cancelling it (deadline, client gone) drops its texts from the queue. Every
accepted future ends: with an answer, or with an error. That holds when the model fails, and when something breaks a
batch off: the thread goes on with what waits.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from potstill.server.limits import Limits
from potstill.server.metrics import Metrics
from potstill.server.models import ServedModel, Text

_logger = logging.getLogger("potstill.server")

Probabilities = npt.NDArray[np.float32]


class QueueFullError(Exception):
    """A model has so much to do that it takes no more texts."""

    def __init__(self, model: str, waiting: int, limit: int) -> None:
        super().__init__(f"{model}: {waiting} of {limit} texts wait already")
        self.model, self.waiting, self.limit = model, waiting, limit


class WorkerError(Exception):
    """A batch was broken off, or the model's thread has ended, mostly because the server does."""


class ModelError(Exception):
    """A model failed on these texts."""


class Answer(NamedTuple):
    """A model's answer to one request."""

    probabilities: Probabilities
    """(texts, classes)."""
    seconds: float
    """From being queued to being computed."""


@dataclass(frozen=True, eq=False)
class _Job:
    """One request's texts, and where its answer goes."""

    texts: Sequence[Text]
    future: asyncio.Future[Answer]
    queued_at: float = field(default_factory=time.perf_counter)


class Worker:
    """One model's queue and thread. `start`, `submit` and `stop` are for the event loop's thread."""

    def __init__(self, model: ServedModel, limits: Limits, metrics: Metrics) -> None:
        self.model = model
        self._limits = limits
        self._metrics = metrics
        self._jobs: deque[_Job] = deque()
        self._waiting = 0  # texts in `_jobs`
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"potstill-{model.name}", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    @property
    def is_alive(self) -> bool:
        """Whether it takes texts and will answer them."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """Texts that wait."""
        return self._waiting

    def start(self) -> None:
        """Begin to work, for the event loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def require_room(self, texts: int) -> None:
        """Check that so many texts would be taken now; from the event loop's thread that holds until it submits any.

        Raises:
            QueueFullError: They don't fit into the queue.
            WorkerError: The thread has ended.
        """
        if not self.is_alive:
            raise WorkerError(self.model.name)
        if self._waiting + texts > self._limits.max_queue:
            raise QueueFullError(self.model.name, self._waiting, self._limits.max_queue)

    def submit(self, texts: Sequence[Text]) -> asyncio.Future[Answer]:
        """Queue one request's texts; cancel the future to give them up.

        Raises:
            QueueFullError, WorkerError: See `require_room`.
        """
        with self._changed:
            self.require_room(len(texts))
            job = _Job(texts, self._loop.create_future())
            self._jobs.append(job)
            self._waiting += len(texts)
            if len(self._jobs) == 1 or self._waiting >= self._limits.batch_texts:  # no need to wake it in between
                self._changed.notify()
        job.future.add_done_callback(lambda future: self._drop(job) if future.cancelled() else None)
        return job.future

    def _drop(self, job: _Job) -> None:
        """Give up texts that nobody waits for any more, unless they are being computed."""
        with self._changed, suppress(ValueError):
            self._jobs.remove(job)
            self._waiting -= len(job.texts)

    def stop(self) -> None:
        """Answer what was accepted, then end. Blocks until that is done."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        """Work until stopped, whatever breaks a batch off; however it ends, leave no future pending."""
        batch: list[_Job] = []
        try:
            while True:
                batch = []  # a new one: the event loop may still settle the last
                try:
                    self._take(batch)
                    if not batch:
                        break
                    self._compute(batch)
                except BaseException:  # SystemExit too: without its thread the model would answer nobody any more
                    self._break_off(batch)
        except BaseException:
            _logger.exception("the worker of model %r has died", self.model.name)
        finally:
            with self._changed:
                self._stopping = True
                left = [*batch, *self._jobs]
                self._jobs.clear()
                self._waiting = 0
            if left:  # else the event loop may be closed already
                self._settle(left, WorkerError(self.model.name))

    def _break_off(self, batch: Sequence[_Job]) -> None:
        """Deal with the error that a batch has ended with."""
        _logger.exception("the worker of model %r broke a batch off, and goes on", self.model.name)
        self._settle(batch, WorkerError(self.model.name))
        self._metrics.broken_off(self.model.name)
        with self._changed:  # the error may have come between taking a job and counting it
            self._waiting = sum(len(job.texts) for job in self._jobs)

    def _take(self, batch: list[_Job]) -> None:
        """Wait for texts; add up to `batch_texts` of them, but at least one job; none when there will be no more."""
        limit, texts = self._limits.batch_texts, 0
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if not self._jobs:
                    return
                self._changed.wait_for(lambda: self._waiting >= limit or self._stopping, self._limits.batch_wait)
                while self._jobs:
                    job = self._jobs[0]
                    if not job.future.cancelled():
                        if batch and texts + len(job.texts) > limit:
                            break
                        batch.append(job)  # before it leaves the queue: an error in between must not lose it
                        texts += len(job.texts)
                    self._jobs.popleft()
                    self._waiting -= len(job.texts)

    def _compute(self, jobs: Sequence[_Job]) -> None:
        texts = [text for job in jobs for text in job.texts]
        started = time.perf_counter()
        try:
            probabilities = self.model.probabilities(texts)  # (texts, classes)
        except Exception:
            if len(jobs) > 1:  # one request's texts must not spoil its neighbours' answers
                for job in jobs:
                    self._compute([job])
                return
            _logger.exception("model %r failed on %d texts", self.model.name, len(texts))
            self._settle(jobs, ModelError(self.model.name))
            return
        self._metrics.batch(self.model.name, len(texts), time.perf_counter() - started)
        ends = np.cumsum([len(job.texts) for job in jobs])
        self._settle(jobs, np.split(probabilities, ends[:-1]))

    def _settle(self, jobs: Sequence[_Job], outcome: Sequence[Probabilities] | Exception) -> None:
        """Hand each job its part of the outcome, or the error, in the event loop's thread."""
        now = time.perf_counter()

        def settle() -> None:
            for place, job in enumerate(jobs):
                if job.future.done():  # cancelled meanwhile
                    continue
                if isinstance(outcome, Exception):
                    job.future.set_exception(outcome)
                else:
                    job.future.set_result(Answer(outcome[place], now - job.queued_at))

        self._loop.call_soon_threadsafe(settle)
