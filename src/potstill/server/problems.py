"""Refusals: what a client is told when it gets no answer, as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

MEDIA_TYPE: Final = "application/problem+json"

RETRY_AFTER: Final = {"Retry-After": "1"}
"""A full queue is worked off within seconds; one is the least that the header can say but at once."""


class Problem(BaseModel):
    """Why a request was not answered."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    title: str
    """What is wrong, in a few words that do not change."""
    status: int
    """The HTTP status."""
    expected: str
    """What the server would have accepted, or done."""
    found: str
    """What it found instead."""
    what_to_do: str
    """How to get an answer."""
    request_id: str
    """The request's `X-Request-ID`, which the server's log names too."""


class Refusal(Exception):  # noqa: N818 - some refusals are nobody's error
    """Raised anywhere in a request's way; becomes the response. The arguments are the fields of `Problem`."""

    def __init__(
        self,
        status: int,
        title: str,
        *,
        expected: str,
        found: str,
        what_to_do: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{title}: expected {expected}, found {found}")
        self.status, self.title, self.headers = status, title, headers
        self.expected, self.found, self.what_to_do = expected, found, what_to_do

    def response(self, request_id: str) -> JSONResponse:
        """Write it down."""
        problem = Problem(
            title=self.title,
            status=self.status,
            expected=self.expected,
            found=self.found,
            what_to_do=self.what_to_do,
            request_id=request_id,
        )
        return JSONResponse(problem.model_dump(), self.status, self.headers, media_type=MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe refusals for OpenAPI: what each of `statuses` means here."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}


_MEANINGS: Final = {
    400: "The body is no JSON, or no UTF-8.",
    401: "The bearer token is missing or wrong.",
    408: "The body did not arrive within the deadline.",
    413: "The body is too long.",
    415: "The body is not declared as JSON.",
    422: "The body is JSON of another shape than expected, or beyond a limit.",
    429: "This client has too much under way already (see `Retry-After`).",
    500: "The model failed.",
    503: "Too much waits already, or an error broke the model's work off (see `Retry-After`).",
    504: "The answer took longer than the deadline.",
}
