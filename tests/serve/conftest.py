"""A server's surroundings: models that answer by rule, and a trained student for what needs a real one."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from commandline import train_small
from potstill.predict.decision import Threshold
from potstill.serve import create_app
from potstill.serve.models import ServedModel

LABELS = ("bad", "good")


class Rule:
    """A model whose answer anyone can work out: a text with the word "good" is good. It can be held up, or fail."""

    def __init__(
        self, name: str = "rule", *, in_pairs: bool = False, threshold: Threshold = None, least: float | None = None
    ) -> None:
        self.name, self.in_pairs, self.threshold, self.least = name, in_pairs, threshold, least
        self.batches: list[int] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.error: BaseException | None = None

    def probabilities(self, texts: Any) -> np.ndarray:
        self.batches.append(len(texts))
        self.entered.release()
        assert self.gate.wait(30)
        if self.error is not None and any("poison" in text for text in texts):
            raise self.error
        good = np.array([re.search(r"\bgood\b", " ".join(text) if self.in_pairs else text) for text in texts], bool)
        share = np.where(good, 0.9, 0.2)
        return np.stack([1 - share, share], axis=1).astype(np.float32)

    def answer(self, texts: Any) -> tuple[np.ndarray, list[bool]]:
        return self.probabilities(texts), [len(text) > 100 for text in texts]

    def served(self) -> ServedModel:
        about = (LABELS, self.in_pairs, self.answer, self.threshold, "0123")
        return ServedModel(self.name, "student", *about, min_confidence=self.least)


Client = httpx.AsyncClient
Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def rule() -> Rule:
    return Rule()


@pytest.fixture
def make_rule() -> type[Rule]:
    return Rule


@pytest.fixture
def serve() -> Serve:
    return _serve


@pytest.fixture
def another() -> Callable[[Client], Client]:
    """Make a client of the same application that comes from another address."""

    def make(client: Client) -> Client:
        transport = httpx.ASGITransport(client._transport.app, raise_app_exceptions=False, client=("192.0.2.7", 1))
        return Client(transport=transport, base_url="http://test")

    return make


@asynccontextmanager
async def _serve(*models: Rule, **options: Any) -> AsyncIterator[Client]:
    """Run the application in this event loop, without a socket."""
    app = create_app([model.served() for model in models], **options)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with Client(transport=transport, base_url="http://test") as client:
            yield client


@pytest.fixture(scope="module")
def listen() -> Iterator[Callable[[FastAPI], str]]:
    """Run an application behind a socket, in a thread, until the module's tests end; returns its address."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    @cache
    def start(app: FastAPI) -> str:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student trained on next to nothing."""
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "another", "dog"]
    rows = [f"{words[i % 10]} {words[i % 7]},{'yes' if i % 2 else 'no'}" for i in range(40)]
    return train_small(tmp_path_factory.mktemp("served"), ["text,label", *rows], name="little")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
