"""A client of the OpenAI-compatible interface `/chat/completions`: at a pace, and again after failures."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from pydantic import BaseModel, ConfigDict, ValidationError

from potstill.config import EndpointConfig
from potstill.errors import SourceError
from potstill.predict.wording import in_one_line

_KEY: Final = "OPENAI_API_KEY"
_AGAIN: Final = frozenset({408, 409, 425, 429})
"""What passes; 5xx does too."""
_LONGEST_WAIT: Final = 600.0
"""Seconds. A server that asks for more, as when a day's quota is used up, ends the work."""
_LONGEST_BACKOFF: Final = 60.0
_SHOWN: Final = 300
"""Characters of a server's message that an error repeats."""


class RefusedError(Exception):
    """The server does not take this request, such as one with too long a text; another one may do."""


class FailedError(Exception):
    """The request failed each time; `is_internal` says whether with a mistake of the server in answering it."""

    def __init__(self, message: str, *, is_internal: bool) -> None:
        super().__init__(message)
        self.is_internal = is_internal


class _Part(BaseModel):
    """A part of the server's answer: what else is in it is of no interest."""

    model_config = ConfigDict(extra="ignore")


class Token(_Part):
    """A token and its log-probability."""

    token: str
    logprob: float


class Position(Token):
    """The token that was chosen at a place, and the most probable ones."""

    top_logprobs: list[Token] = []


class _LogProbs(_Part):
    content: list[Position] | None = None


class _Message(_Part):
    content: str | None = None


class _Choice(_Part):
    message: _Message
    logprobs: _LogProbs | None = None


class _Usage(_Part):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(_Part):
    choices: list[_Choice]
    usage: _Usage | None = None


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: What the model says; empty where it says nothing.
        positions: Its tokens with their log-probabilities; empty where the server gives none.
        tokens: How many the prompt has, and how many the answer.
    """

    text: str
    positions: tuple[Position, ...]
    tokens: tuple[int, int]


class ChatClient:
    """Sends requests from any number of threads. The key, from the environment, is in no message and no file."""

    def __init__(self, settings: EndpointConfig) -> None:
        self._settings = settings
        self._key = os.environ.get(_KEY, "").strip()
        self._pace = _Pace(settings.requests_per_minute)
        self._was_reached = False
        self._pool = urllib3.PoolManager(
            maxsize=settings.concurrency,
            retries=False,
            timeout=urllib3.Timeout(connect=min(10.0, settings.timeout), read=settings.timeout),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
        )

    def complete(self, messages: list[dict[str, str]], **fields: Any) -> Reply:
        """Ask for one answer to `messages`; `fields` are further ones of the request.

        Raises:
            RefusedError: The server does not take the request.
            FailedError: It failed, after as many attempts as the settings allow.
            SourceError: No request can succeed: the key or the model is wrong, or the server asks to wait too long.
        """
        settings = self._settings
        body = {"model": settings.model, "messages": messages, **fields} | settings.request
        body = {name: value for name, value in body.items() if value is not None}
        for attempt in range(settings.retries + 1):
            self._pace.wait()
            wait = min(_LONGEST_BACKOFF, 2.0**attempt) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
            try:
                response = self._pool.request("POST", f"{settings.url}/chat/completions", json=body)
                self._was_reached = True
                if response.status == 200:
                    return _reply(response.data)
                failure = f"status {response.status}: {self._shown(response.data.decode('utf-8', 'replace'))}"
                self._check(response.status, failure)
                if (asked := urllib3.Retry().get_retry_after(response)) is not None:
                    self._wait_for_all(asked, failure)
                    continue
            except (urllib3.exceptions.HTTPError, ValidationError) as error:
                failure = self._shown(f"{type(error).__name__}: {error}")
                if isinstance(error, urllib3.exceptions.NewConnectionError) and not self._was_reached:
                    break  # the address is wrong, or nothing runs there
            if attempt < settings.retries:
                time.sleep(wait)
        raise FailedError(failure, is_internal=failure.startswith(("status 500", "status 501")))

    def _check(self, status: int, failure: str) -> None:
        """Return where a request may succeed later."""
        if status in _AGAIN or status >= 500:
            return
        if status in (400, 413, 422):
            raise RefusedError(failure)
        remedy = f"set the environment variable {_KEY} to a key of this server"
        if status not in (401, 403):
            known = ", ".join(self._models()) or "not known"
            remedy = f"check the address, which mostly ends in /v1, and --teacher-model; the server's models: {known}"
        raise SourceError(f"{self._settings.url} answers with {failure}\n  what to do: {remedy}")

    def _wait_for_all(self, seconds: float, failure: str) -> None:
        if seconds > _LONGEST_WAIT:
            raise SourceError(
                f"{self._settings.url} asks to wait {seconds:,.0f} seconds ({failure})\n"
                "  what to do: repeat the command then; the answers so far are kept"
            )
        self._pace.pause(seconds)

    def _models(self) -> list[str]:
        """Ask the server for the names of its models; none where it does not tell."""
        try:
            found = self._pool.request("GET", f"{self._settings.url}/models", timeout=10.0).json()["data"]
            return [self._shown(str(one["id"])) for one in found[:10]]
        except (urllib3.exceptions.HTTPError, ValueError, TypeError, KeyError):
            return []

    def _shown(self, message: str) -> str:
        """Shorten a message, without the key that a server may repeat."""
        hidden = message.replace(self._key, f"${_KEY}") if self._key else message
        return in_one_line(hidden[:_SHOWN])


def _reply(content: bytes) -> Reply:
    """Parse an answer; a ValidationError if it is none."""
    completion = _Completion.model_validate_json(content)
    choice = completion.choices[0] if completion.choices else _Choice(message=_Message())
    usage, logprobs = completion.usage or _Usage(), choice.logprobs or _LogProbs()
    tokens = usage.prompt_tokens, usage.completion_tokens
    return Reply(choice.message.content or "", tuple(logprobs.content or ()), tokens)


class _Pace:
    """Spaces the requests of all threads."""

    def __init__(self, per_minute: float | None) -> None:
        self._lock, self._next = threading.Lock(), 0.0
        self._interval = 0.0 if per_minute is None else 60.0 / per_minute

    def wait(self) -> None:
        """Wait for the next turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval
        time.sleep(turn - now)

    def pause(self, seconds: float) -> None:
        """Let all turns from now on be later."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)
