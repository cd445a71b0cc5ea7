"""The application: routes, and how a request becomes work for the models and then an answer."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from importlib.metadata import version
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from potstill.serve.answers import Health, ModelAnswer, Models, PredictAnswer, answer, describe
from potstill.serve.limits import Limits
from potstill.serve.load import ClientQuota, ModelError, Workers, pieces
from potstill.serve.models import ServedModel
from potstill.serve.observe import CLIENT_GONE, ModelMetrics, observe, request_id
from potstill.serve.page import page
from potstill.serve.problems import Refusal, documented
from potstill.serve.question import Question, Questions, check_headers

_SHORT_BODY: Final = 1 << 14
"""Bytes of a body that is parsed in the event loop, in less than a millisecond; longer ones are parsed in a thread."""
_DISCARDED: Final = 1 << 26
"""Most bytes of a refused body that are received and thrown away."""
_MOMENT: Final = 0.02


def create_app(
    models: Sequence[ServedModel],
    limits: Limits | None = None,
    token: str | None = None,
    examples: Sequence[str] = (),
    allowed_hosts: Sequence[str] = (),
) -> FastAPI:
    """Build the application.

    Args:
        models: At least one; the first answers requests that name none.
        limits: None: the defaults.
        token: What clients must send as bearer token, or none.
        examples: Texts that the page offers.
        allowed_hosts: Names that a request's Host header may have; none: any.
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

    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return error.response(request_id())

    async def refuse_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        expected, found = "a method and path that /openapi.json describes", f"{request.method} {request.url.path[:100]}"
        return await refuse(request, Refusal(error.status_code, expected, found, "check both", error.headers))

    async def client_has_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)  # for the log

    app.add_exception_handler(Refusal, refuse)
    app.add_exception_handler(HTTPException, refuse_route)
    app.add_exception_handler(ClientDisconnect, client_has_gone)
    guarded: dict[str, Any] = {}
    if token is not None:
        guarded = {"dependencies": [Depends(_bearer(token))], "responses": documented(401)}
    _add_routes(app, service, guarded, list(examples))
    observe(app, service.metrics.registry, tuple(allowed_hosts), response_class=Response, **guarded)
    return app


class _Served(NamedTuple):
    model: ServedModel
    workers: Workers
    texts: ClientQuota


class _Service:
    def __init__(self, models: Sequence[ServedModel], limits: Limits) -> None:
        self.limits = limits
        self.metrics = ModelMetrics()
        self.models = {model.name: model for model in models}
        self.questions = Questions(self.models, limits)
        self.bytes = ClientQuota("bytes of bodies", limits.max_held_bytes, limits.client_share, limits.max_body_bytes)
        self._parsing = Workers("parsing", 1)
        self._served = {name: self._serve(model) for name, model in self.models.items()}
        self._stopping = False

    def _serve(self, model: ServedModel) -> _Served:
        limits, name = self.limits, model.name
        texts = ClientQuota(f"texts under way in {name}", limits.max_queue, limits.client_share, limits.max_texts)
        self.metrics.show(name, lambda: texts.held, lambda: self.health()[name])
        return _Served(model, Workers(name, model.parallel), texts)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Serve; at the end let the models finish."""
        yield
        self._stopping = True
        while any(served.texts.held for served in self._served.values()):  # until their deadline at most
            await asyncio.sleep(_MOMENT)
        for workers in (self._parsing, *(served.workers for served in self._served.values())):
            await asyncio.to_thread(workers.stop)

    def health(self) -> dict[str, bool]:
        """Say of each model whether it answers."""
        within = self.limits.deadline
        return {name: not self._stopping and one.workers.busy_for() <= within for name, one in self._served.items()}

    async def predict(self, request: Request) -> list[ModelAnswer]:
        """Answer a request.

        Raises:
            Refusal: It is beyond a limit, or not as expected; too much is under way; a model fails; time is up.
            ClientDisconnect: The client has gone.
        """
        client = request.client.host if request.client is not None else ""
        deadline = asyncio.get_running_loop().time() + self.limits.deadline
        with ExitStack() as held:
            try:
                length = check_headers(request.headers, self.limits)
                held.enter_context(self.bytes.hold(client, length))
            except Refusal as refusal:
                with suppress(Refusal):
                    await self._receive(request, deadline, most=0)  # while a client sends, it does not read the refusal
                raise refusal from None
            body = await self._receive(request, deadline, self.limits.max_body_bytes)
            if len(body) <= _SHORT_BODY:
                asked = self.questions.parse(body)
            else:
                asked = await self._parsing.run(client, self.questions.parse, body)
            request.state.logged.update(texts=len(asked.texts), models=[model.name for model in asked.models])
            if self._stopping:
                raise Refusal(503, "a server that goes on", "one that ends", "try again after Retry-After seconds")
            chosen = [self._served[model.name] for model in asked.models]
            for served in chosen:  # all models or none
                held.enter_context(served.texts.hold(client, len(asked.texts)))
            return await self._ask(request, chosen, asked, client, deadline)

    async def _receive(self, request: Request, deadline: float, most: int) -> bytearray:
        """Receive a body, and throw away what comes after `most` bytes, so that the client reads the refusal."""
        body, received = bytearray(), 0
        try:
            async with asyncio.timeout_at(deadline):
                async for chunk in request.stream():
                    received += len(chunk)
                    if received <= most:
                        body += chunk
                    elif received > most + _DISCARDED:
                        break
        except TimeoutError:
            expected = f"the whole body within {self.limits.deadline:g} s"
            raise Refusal(408, expected, "a part of it", "send it again, or less of it") from None
        if received > most:
            raise Refusal(413, f"at most {most} bytes", "more", "send fewer texts in one request, or shorter ones")
        return body

    async def _ask(
        self, request: Request, chosen: list[_Served], asked: Question, client: str, deadline: float
    ) -> list[ModelAnswer]:
        tasks = [asyncio.create_task(self._answer(served, asked, client)) for served in chosen]
        answers = asyncio.gather(*tasks)
        gone = asyncio.ensure_future(request.receive())  # the body has been read: the client's end is all that can come
        left = deadline - asyncio.get_running_loop().time()
        try:
            await asyncio.wait((answers, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answers.done():
                return answers.result()
        except ModelError as error:
            self.metrics.failures.labels(str(error)).inc()
            found, remedy = f"an error of the model {error}", "look for it in the server's log, and report it"
            raise Refusal(500, "an answer", found, remedy) from None
        finally:
            for task in (*tasks, gone):  # what still waits is dropped, also where one model has failed
                task.cancel()
            await asyncio.gather(answers, return_exceptions=True)
        if gone.done() and not gone.cancelled():
            raise ClientDisconnect
        expected = f"an answer within {self.limits.deadline:g} s"
        raise Refusal(504, expected, "none yet", "send fewer texts, or try again later")

    async def _answer(self, served: _Served, asked: Question, client: str) -> ModelAnswer:
        model, started = served.model, time.perf_counter()
        answers = [await served.workers.run(client, self._compute, model, piece) for piece in pieces(asked.texts)]
        probabilities = np.concatenate([shares for shares, _ in answers])
        truncated = [mark for _, marks in answers for mark in marks]
        return answer(model, probabilities, truncated, time.perf_counter() - started, asked.top_k)

    def _compute(self, model: ServedModel, texts: Sequence[Any]) -> Any:
        with self.metrics.seconds.labels(model.name).time():
            computed = model.answer(texts)
        self.metrics.texts.labels(model.name).inc(len(texts))
        return computed


def _add_routes(app: FastAPI, service: _Service, guarded: dict[str, Any], examples: list[str]) -> None:
    refusals = documented(400, 408, 413, 415, 422, 429, 500, 503, 504) | guarded.get("responses", {})
    guards = guarded | {"responses": refusals, "openapi_extra": service.questions.described()}

    @app.post("/v1/predict", **guards, response_model=PredictAnswer, summary="Classify texts")
    async def predict(request: Request) -> Any:
        content: PredictAnswer = {"answers": await service.predict(request), "request_id": request_id()}
        return Response(json.dumps(content), media_type="application/json")

    @app.get("/v1/models", **guarded, summary="The models, the limits, texts to try")
    async def models() -> Models:
        return Models(models=[*map(describe, service.models.values())], limits=service.limits, examples=examples)

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def show() -> HTMLResponse:
        return page()

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return RedirectResponse("openapi.json")  # relative, so that it leads wherever this path was asked

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


_HEADER = HTTPBearer(auto_error=False, description="The server's token, if it has one.")


def _bearer(token: str) -> Callable[..., Awaitable[None]]:
    """Make a dependency that refuses requests without the token, before their body is read."""
    expected = token.encode()

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_HEADER)]) -> None:
        # Headers are decoded as Latin-1, so this gives back the bytes that were sent.
        if given is None or not hmac.compare_digest(given.credentials.encode("latin-1"), expected):
            asked, found = "Authorization: Bearer with this server's token", "another token" if given else "none"
            raise Refusal(401, asked, found, "ask the server's operator for the token")

    return check
