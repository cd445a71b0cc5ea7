"""What the server accepts, and what it holds at a time: together they bound its memory and the delay of its answers."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0.0)]


class Limits(BaseModel):
    """The command line has a flag for each of these, with the same words as its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    max_body_bytes: Count = 1 << 20
    """Longest body of a request, in bytes. A megabyte holds a full request of ordinary texts; a longer body is refused
    before it is parsed."""
    max_held_bytes: Count = 1 << 23
    """Bytes of the bodies of all requests that are dealt with at a time; what comes beyond is refused with 503. It
    bounds the memory: a body takes three times its length while it is parsed."""
    max_texts: Count = 256
    """Texts in one request. More would keep others waiting; a client with many sends several requests."""
    max_characters: Count = 10_000
    """Characters in one text. Models cut at some hundred tokens, so nothing beyond would be read anyway."""
    max_requests: Count = 256
    """Requests dealt with at a time, those whose body still arrives included. 256 is far more than a machine computes
    at once."""
    max_queue: Count = 4096
    """Texts under way in one model, waiting or computed. 16 full requests; what comes beyond is refused with 503 at
    once, which serves a client better than an answer that comes too late."""
    max_connections: Count = 768
    """Open connections, but 64 fewer than the files that the system lets the process open (`ulimit -n`) at most; what
    comes beyond is closed. An idle connection takes some kilobytes; 768 stays below the usual 1,024 files."""
    client_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Largest part of `max_held_bytes`, of `max_requests`, of a model's `max_queue` and of `max_connections` that one
    client (one address) may take at a time, but one full request in any case; what it sends beyond is refused with 429.
    1: no limit per client; for a server behind a proxy on another machine, whose clients all seem to be one."""
    deadline: Seconds = 30.0
    """Seconds after which a request is given up; they begin with its headers, so that a slow body leaves less for the
    answer. Few clients wait longer, and a teacher may need seconds for a full request on a CPU."""
    header_timeout: Seconds = 10.0
    """Seconds that a request's headers may take to arrive, from the connection or their first byte on. Headers fit into
    a packet or two; a client that is slower holds a connection that others could use."""
    keep_alive: Seconds = 75.0
    """Seconds that a connection may be idle between two requests. More than the 60 of most proxies, so that they close
    it, not this server: else a request could meet a connection that is just being closed."""

    @model_validator(mode="after")
    def _a_full_request_fits(self) -> Self:
        for whole, part in (("max_queue", "max_texts"), ("max_held_bytes", "max_body_bytes")):
            if getattr(self, whole) < getattr(self, part):
                raise ValueError(
                    f"{whole} ({getattr(self, whole)}) must not be less than {part} ({getattr(self, part)})"
                )
        return self
