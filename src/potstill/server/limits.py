"""What the server accepts, and what it holds at a time: together they bound its memory and its answers' delay."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]


class Limits(BaseModel):
    """The command line has a flag for each of these, with the same words as its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    max_body_bytes: Count = 1 << 20
    """Longest body of a request, in bytes. A megabyte holds a full request of ordinary texts; a longer body is refused
    while it arrives, before it is parsed."""
    max_texts: Count = 256
    """Texts in one request. More would keep others waiting; a client with many sends several requests."""
    max_characters: Count = 10_000
    """Characters in one text. Models cut at some hundred tokens, so nothing beyond would be read anyway."""
    max_requests: Count = 256
    """Requests dealt with at a time, those whose body still arrives included: with `max_body_bytes` it bounds the
    memory that bodies take. 256 is far more than a machine computes at once, and 256 MiB at worst."""
    max_queue: Count = 4096
    """Texts that wait for one model. 16 full requests; what comes beyond is refused with 503 at once, which serves a
    client better than an answer that comes too late."""
    client_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Largest part of `max_requests`, and of a model's `max_queue`, that one client (one address) may take at a time,
    but one full request in any case; what it sends beyond is refused with 429. Half: one that floods the server leaves
    as much to all others. 1: whoever comes first; for a server behind a proxy on another machine, whose clients all
    seem to be one."""
    batch_texts: Count = 256
    """Texts computed at once: what waits is taken together up to this, so that one batch takes no longer than one full
    request."""
    batch_wait: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Seconds that a batch which is not full waits for more. 0: while one batch is computed the next gathers by itself,
    so waiting would only delay the answers to a client that is alone."""
    deadline: Annotated[float, Field(gt=0.0)] = 30.0
    """Seconds after which a request is given up, its texts dropped from the queue; they begin with its headers, so that
    a slow body leaves less for the answer. Few clients wait longer, and a teacher may need seconds for a full request
    on a CPU."""

    @model_validator(mode="after")
    def _queue_takes_a_request(self) -> Self:
        """Refuse a queue into which the largest request that is accepted would never fit."""
        if self.max_queue < self.max_texts:
            raise ValueError(f"max_queue ({self.max_queue}) must not be less than max_texts ({self.max_texts})")
        return self
