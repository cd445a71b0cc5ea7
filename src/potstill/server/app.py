"""The application: routes, and how a request becomes texts in the models' queues and then an answer."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from potstill.server import query
from potstill.server.answers import Health, ModelAnswer, ModelCard, Models, PredictAnswer
from potstill.server.batching import Answer, ModelError, QueueFullError, Worker, WorkerError
from potstill.server.limits import Limits
from potstill.server.metrics import Metrics
from potstill.server.middleware import CLIENT_GONE, Observed, request_id
from potstill.server.models import ServedModel
from potstill.server.page import page
from potstill.server.problems import RETRY_AFTER, Refusal, documented
from potstill.server.shares import Share, ShareTakenError


def create_app(
    models: Sequence[ServedModel],
    limits: Limits | None = None,
    token: str | None = None,
    examples: Sequence[str] = (),
) -> FastAPI:
    """Build the application.

    Args:
        models: At least one; the first is asked where a request names none.
        limits: None: the defaults.
        token: What clients must send as bearer token, or none.
        examples: Texts that the page offers.
    """
    service = _Service(models, limits or Limits())
    app = FastAPI(
        title="Potstill",
        version=version("potstill"),
        description="Text classifiers of a few megabytes. `POST /v1/predict` asks them; the page at `/` shows them.",
        lifespan=service.lifespan,
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would lead wherever the request's Host header says
    )
    app.add_middleware(Observed, metrics=service.metrics)
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(HTTPException, _refuse_route)
    app.add_exception_handler(ClientDisconnect, _let_go)
    guarded: dict[str, Any] = {}
    if token is not None:
        guarded = {"dependencies": [Depends(_bearer(token))], "responses": documented(401)}
    _add_api(app, service, guarded, list(examples))
    _add_probes(app, service, guarded)
    return app


class _Service:
    """The models at work."""

    def __init__(self, models: Sequence[ServedModel], limits: Limits) -> None:
        self.limits = limits
        self.metrics = Metrics()
        self.models = {model.name: model for model in models}
        self.workers = {model.name: Worker(model, limits, self.metrics) for model in models}
        self._requests = 0
        self._clients = Share(limits.max_requests, limits.client_share)
        self._queued = {name: Share(limits.max_queue, limits.client_share, limits.max_texts) for name in self.models}

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Start the workers; at the end let them finish what was accepted."""
        for worker in self.workers.values():
            worker.start()
            self.metrics.watch(worker)
        yield
        for worker in self.workers.values():
            await asyncio.to_thread(worker.stop)

    def health(self) -> dict[str, bool]:
        """Say of each model whether its worker is alive."""
        return {name: worker.is_alive for name, worker in self.workers.items()}

    @contextmanager
    def admit(self, client: str) -> Iterator[float]:
        """Count a request as being dealt with, or refuse it; give the time of the event loop's clock that it has."""
        with _shared(self._clients, client, 1, "requests at a time"), self._counted():
            yield asyncio.get_running_loop().time() + self.limits.deadline

    @contextmanager
    def share(self, client: str, asked: query.Query) -> Iterator[None]:
        """Count a request's texts for its client in the queues of all models asked, or refuse it."""
        with ExitStack() as stack:
            for model in asked.models:
                what = f"texts under way in {model.name}"
                stack.enter_context(_shared(self._queued[model.name], client, len(asked.texts), what))
            yield

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._requests >= self.limits.max_requests:
            raise _overloaded(f"at most {self.limits.max_requests} requests at a time", "as many already")
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def read(self, request: Request, deadline: float) -> query.Query:
        """Read a request within the limits.

        Raises:
            Refusal: It is beyond them, or not as expected, or has not arrived by the deadline.
            ClientDisconnect: The client has gone.
        """
        try:
            async with asyncio.timeout_at(deadline):
                body = await query.read_body(request, self.limits)
        except TimeoutError:
            raise Refusal(
                408,
                "body too slow",
                expected=f"the whole body within {self.limits.deadline:g} s",
                found="a part of it",
                what_to_do="send it again, or less of it",
                headers={"Connection": "close"},
            ) from None
        return query.parse(body, self.models, self.limits)

    async def ask(self, asked: query.Query, request: Request, deadline: float) -> list[Answer]:
        """Queue the texts for all models asked, and wait.

        Raises:
            Refusal: A queue is full, a model fails, its work is broken off, or the deadline passes.
            ClientDisconnect: The client has gone.
        """
        futures = self._submit(asked)
        answers = asyncio.create_task(_all(futures))
        gone = asyncio.create_task(_until_gone(request))
        ends: set[asyncio.Task[Any]] = {answers, gone}
        try:
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answers.done():
                return await answers
            if gone.done():
                raise ClientDisconnect
        except ModelError as error:
            raise Refusal(
                500,
                "model failed",
                expected="an answer",
                found=f"an error of the model {error}",
                what_to_do="look for it in the server's log, and report it",
            ) from None
        except WorkerError as error:
            raise _worker_ended(error) from None
        finally:
            for future in futures:  # drops what still waits, also where one model has failed; else nothing
                future.cancel()
            gone.cancel()
        raise Refusal(
            504,
            "deadline passed",
            expected=f"an answer within {self.limits.deadline:g} s",
            found="none yet",
            what_to_do="send fewer texts in one request, or try again later",
            headers=RETRY_AFTER,
        )

    def _submit(self, asked: query.Query) -> list[asyncio.Future[Answer]]:
        workers = [self.workers[model.name] for model in asked.models]
        futures: list[asyncio.Future[Answer]] = []
        try:
            for worker in workers:  # all models or none
                worker.require_room(len(asked.texts))
            for worker in workers:
                futures.append(worker.submit(asked.texts))  # noqa: PERF401 - kept where one has just died
            return futures
        except (QueueFullError, WorkerError) as error:
            for future in futures:
                future.cancel()
            if isinstance(error, WorkerError):
                raise _worker_ended(error) from None
            raise _overloaded(
                f"at most {error.limit} texts in the queue of {error.model}",
                f"{error.waiting} there and {len(asked.texts)} more",
            ) from None


def _add_api(app: FastAPI, service: _Service, guarded: dict[str, Any], examples: list[str]) -> None:
    body = {"schema": query.schema(service.models, service.limits), "examples": query.examples(service.models)}
    described = {"requestBody": {"required": True, "content": {"application/json": body}}}
    refusals = documented(400, 408, 413, 415, 422, 429, 500, 503, 504) | guarded.get("responses", {})
    guards = guarded | {"responses": refusals}

    @app.post("/v1/predict", **guards, openapi_extra=described, response_model=PredictAnswer, summary="Classify texts")
    async def predict(request: Request) -> Any:
        client = request.client.host if request.client is not None else ""
        with service.admit(client) as deadline:
            asked = await service.read(request, deadline)
            request.state.logged.update(texts=len(asked.texts), models=[model.name for model in asked.models])
            with service.share(client, asked):
                answers = await service.ask(asked, request, deadline)
        return PredictAnswer(
            request_id=request_id(request),
            answers=[ModelAnswer.of(model, answer) for model, answer in zip(asked.models, answers, strict=True)],
        )

    @app.get("/v1/models", **guarded, summary="What there is to ask")
    async def models() -> Models:
        cards = [
            ModelCard(
                name=model.name,
                kind=model.kind,
                labels=list(model.labels),
                reads_pairs=model.reads_pairs,
                threshold=model.threshold,
            )
            for model in service.models.values()
        ]
        return Models(models=cards, limits=service.limits, examples=examples)


def _add_probes(app: FastAPI, service: _Service, guarded: dict[str, Any]) -> None:
    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def root() -> HTMLResponse:
        return page()

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether the server answers")
    async def healthz() -> Health:
        return Health(status="ok", models=service.health())

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Whether every model answers", responses={503: {"model": Health}})
    async def readyz(response: Response) -> Health:
        health = service.health()
        ready = all(health.values())
        response.status_code = 200 if ready else 503
        return Health(status="ready" if ready else "not ready", models=health)

    @app.get("/metrics", **guarded, summary="For Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


async def _all(futures: Sequence[asyncio.Future[Answer]]) -> list[Answer]:
    return await asyncio.gather(*futures)


async def _until_gone(request: Request) -> None:
    """Wait until the client closes the connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


_HEADER = HTTPBearer(auto_error=False, description="The server's token, if it has one.")


def _bearer(token: str) -> Callable[..., Awaitable[None]]:
    """Make a dependency that lets in whoever knows the token; it runs before a body is read."""
    expected = token.encode()

    async def check(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_HEADER)],
    ) -> None:
        # Headers are decoded as Latin-1, so this gives back the bytes that were sent.
        if given is None or not hmac.compare_digest(given.credentials.encode("latin-1"), expected):
            raise Refusal(
                401,
                "no access",
                expected="Authorization: Bearer with this server's token",
                found="none" if given is None else "another token",
                what_to_do="ask whoever runs the server for the token",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response(request_id(request))


async def _let_go(_: Request, __: Exception) -> Response:
    """Answer nobody: for the log."""
    return Response(status_code=CLIENT_GONE)


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Answer for the router: there is no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    refusal = Refusal(
        error.status_code,
        error.detail.lower(),
        expected="a method and path that /openapi.json describes",
        found=f"{request.method} {request.url.path[:100]}",
        what_to_do="check both",
        headers=error.headers,
    )
    return refusal.response(request_id(request))


@contextmanager
def _shared(share: Share, client: str, amount: int, what: str) -> Iterator[None]:
    """Hold a client's share, or refuse."""
    with ExitStack() as stack:
        try:
            stack.enter_context(share.hold(client, amount))
        except ShareTakenError as error:
            raise Refusal(
                429,
                "too much from one client",
                expected=f"at most {error.most} {what} from one address",
                found=f"{error.taken} there and {error.amount} more",
                what_to_do="wait for answers before you ask for more; try again after the seconds of Retry-After",
                headers=RETRY_AFTER,
            ) from None
        yield


def _overloaded(expected: str, found: str) -> Refusal:
    return Refusal(
        503,
        "overloaded",
        expected=expected,
        found=found,
        what_to_do="try again after the seconds that Retry-After says; send fewer texts at a time",
        headers=RETRY_AFTER,
    )


def _worker_ended(error: WorkerError) -> Refusal:
    return Refusal(
        503,
        "model not available",
        expected=f"a model {error} at work",
        found="that an error broke its work off, or that it has stopped with the server",
        what_to_do="try again after the seconds that Retry-After says; whoever runs the server: see its log",
        headers=RETRY_AFTER,
    )
