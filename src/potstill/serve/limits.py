"""What the server accepts, and what it holds at a time: together they bound its memory and the delay of its answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Limits(BaseModel):
    """Of these, the command line sets those that its help names."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    max_body_bytes: int = 1 << 20
    """Longest body of a request, in bytes: a full request of ordinary texts."""
    max_texts: int = 256
    """Texts in one request. More would keep others waiting; a client with many sends several requests."""
    max_characters: int = 10_000
    """Characters in one text. Models cut at some hundred tokens, so nothing beyond would be read anyway."""
    client_share: float = 0.5
    """Largest part of what the server holds at a time that one client (address) may take, but one full request in any
    case. 1: no limit per client, for a server behind a proxy on another machine, whose clients all seem to be one."""
    deadline: float = 30.0
    """Seconds for a request, from its headers on."""
    max_held_bytes: int = 1 << 23
    """Bytes of all bodies at a time; a body takes three times its length while it is parsed."""
    max_queue: int = 4096
    """Texts under way in one model. More are refused at once, which is better than an answer that comes too late."""
    max_connections: int = 768
    """Open connections, and at most 64 fewer than the files that the system lets the process open (`ulimit -n`)."""
    header_timeout: float = 10.0
    """Seconds that a request's headers may take: they fit into a packet or two."""
    keep_alive: float = 75.0
    """Seconds that a connection may be idle: more than the 60 of most proxies, so that they close it, not the server,
    which a request could meet."""
