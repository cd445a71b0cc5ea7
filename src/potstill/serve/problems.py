"""Refusals: why a request gets no answer, as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi.responses import JSONResponse

MEDIA_TYPE: Final = "application/problem+json"
_MEANINGS: Final = {
    400: "The body is no JSON, or no UTF-8.",
    401: "The bearer token is missing or wrong.",
    408: "The body did not arrive within the deadline.",
    413: "The body is too long.",
    415: "The body is not declared as JSON, or is compressed.",
    422: "The body is JSON of another shape than expected, or beyond a limit.",
    429: "This client has too much under way already (see `Retry-After`).",
    500: "The model failed.",
    503: "Too much waits already (see `Retry-After`).",
    504: "The answer took longer than the deadline.",
}
_RETRY: Final = {"Retry-After": "1"}  # a full server is free again within seconds
_CLOSE: Final = {"Connection": "close"}  # what may still arrive is not for a next request
_HEADERS: Final = {
    401: {"WWW-Authenticate": "Bearer"},
    408: _CLOSE,
    413: _CLOSE,
    429: _RETRY,
    503: _RETRY,
    504: _RETRY,
}
_FIELDS: Final = {
    "title": "The status in words.",
    "status": "The HTTP status.",
    "expected": "What the server would have accepted, or done.",
    "found": "What it found instead.",
    "what_to_do": "How to get an answer.",
    "request_id": "The request's `X-Request-ID`, which the server's log names too.",
}


class Refusal(Exception):  # noqa: N818 - a full server is no error
    """Raised anywhere in a request's way; becomes the response."""

    def __init__(
        self, status: int, expected: str, found: str, what_to_do: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.status, self.headers = status, headers or _HEADERS.get(status)
        self._fields = {"expected": expected, "found": found, "what_to_do": what_to_do}

    def response(self, request_id: str) -> JSONResponse:
        """Make the response."""
        title = HTTPStatus(self.status).phrase
        content = {"title": title, "status": self.status, **self._fields, "request_id": request_id}
        return JSONResponse(content, self.status, self.headers, media_type=MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe refusals for OpenAPI: what each of `statuses` means here."""
    types = dict.fromkeys(_FIELDS, "string") | {"status": "integer"}
    properties = {name: {"type": types[name], "description": text} for name, text in _FIELDS.items()}
    content = {MEDIA_TYPE: {"schema": {"type": "object", "properties": properties, "required": [*_FIELDS]}}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}
