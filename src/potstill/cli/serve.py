"""`potstill serve`: saved models behind HTTP."""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import uvicorn

from potstill.cli.options import Abstention, abstention_options, runtime_options, runtime_settings
from potstill.errors import ServeError
from potstill.serve import create_app
from potstill.serve.connections import protocol
from potstill.serve.limits import Limits
from potstill.serve.models import find_models, open_models
from potstill.serve.observe import log_to_stderr

_TOKEN_VARIABLE: Final = "POTSTILL_TOKEN"  # noqa: S105 - its name, not a token
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_SHORTEST_TOKEN: Final = 16
_BACKLOG: Final = 2048
"""Connections that may wait to be accepted: a burst gets refusals from this server, not from the operating system."""
_ACCEPTED: Final = 16
"""Connections that are accepted before any of them is looked at. asyncio would accept as many as may wait, more than
files may be open, and then accept none for a second."""
_logger = logging.getLogger("potstill.serve")


_LIMITS: Final = {
    "max_body_bytes": click.IntRange(1),
    "max_texts": click.IntRange(1),
    "max_characters": click.IntRange(1),
    "client_share": click.FloatRange(0, 1, min_open=True),
    "deadline": click.FloatRange(0, 3600, min_open=True),
}


def _with_limits(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, kind in reversed(_LIMITS.items()):
        field, flag = Limits.model_fields[name], f"--{name.replace('_', '-')}"
        option = click.option(
            flag, type=kind, default=field.default, metavar="N", show_default=True, help=field.description
        )
        command = option(command)
    return command


def _network(value: str) -> str:
    try:  # uvicorn would accept anything else, and never find it
        ipaddress.ip_network(value)
    except ValueError as error:
        raise click.BadParameter(f"expected an address or a network of them: {error}") from None
    return value


_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at. The default can be reached from this machine only.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen at; 0: any free one."
)
@click.option(
    "--token-file",
    type=_FILE,
    metavar="FILE",
    help=f"File with the bearer token that clients must send; or set {_TOKEN_VARIABLE}.  [default: no token]",
)
@click.option(
    "--behind-proxy",
    type=_network,
    metavar="ADDRESS",
    help="Address or network of the reverse proxy whose X-Forwarded-For names the client.  [default: none]",
)
@click.option(
    *("--allowed-host", "allowed_hosts"),
    multiple=True,
    metavar="NAME",
    help="Name that a request's Host header may have; * allows any. Keeps foreign web pages from asking a server on "
    "this machine. May be repeated.  [default: localhost and its addresses where --host is one, else any]",
)
@click.option("--root-path", default="", metavar="PATH", help="Path of the server at its proxy, as /potstill.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one computation.")
@click.option(
    "--examples",
    type=_FILE,
    metavar="FILE",
    help="Texts that the page offers, one a line (pairs with a tab between).  [default: the page's own]",
)
@abstention_options
@runtime_options
@_with_limits
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    token_file: Path | None,
    behind_proxy: str | None,
    allowed_hosts: tuple[str, ...],
    root_path: str,
    threads: int,
    examples: Path | None,
    abstention: Abstention,
    **settings: Any,
) -> None:
    """Answer over HTTP with saved models, and show a page to try them.

    MODEL is a directory, or NAME=DIRECTORY: a student's, a teacher's, or a run's, of which the best student
    of each kind is served, first the one that its report recommends. It may also be a model of the Hugging Face hub,
    owner/name or owner/name@revision. Requests that name no model ask the first.

    \b
      potstill serve runs/NAME
      curl -H 'Content-Type: application/json' -d '{"text": "Is it so?"}' http://127.0.0.1:8000/v1/predict

    With --coverage or --max-error, a student's label is null where it is not sure enough; a teacher always answers.

    The log goes to standard error, a JSON object a line. SIGTERM, SIGHUP and Ctrl-C end the server once it has
    answered the requests that it accepted.
    """
    # Uvicorn drains on these signals, then raises them again for their earlier handlers.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored under nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    bounds = Limits(**{name: settings.pop(name) for name in _LIMITS})
    token = _token(token_file)
    texts = "" if examples is None else _text(examples.read_bytes(), examples)
    offered = [line for line in texts.splitlines() if line.strip()][:8]  # the page has room for these
    log_to_stderr()
    directories = find_models(models)
    listener = _listen(host, port)
    served = open_models(directories, threads, lambda: runtime_settings(**settings), **abstention)
    if host not in _LOOPBACK and token is None:
        _logger.warning("other machines can reach this server, and it has no token; see --token-file")
    address = "[{}]:{}" if listener.family == socket.AF_INET6 else "{}:{}"
    _logger.info(
        "serving %s at http://%s", ", ".join(model.name for model in served), address.format(*listener.getsockname())
    )
    hosts = [] if "*" in allowed_hosts else [name.lower() for name in allowed_hosts]
    if host in _LOOPBACK and not allowed_hosts:
        hosts += _LOOPBACK
    config = uvicorn.Config(
        create_app(served, bounds, token, offered, hosts),
        http=protocol(bounds, behind_proxy=behind_proxy is not None),
        ws="none",
        backlog=_ACCEPTED,
        timeout_keep_alive=math.ceil(bounds.keep_alive),
        root_path=root_path.rstrip("/"),
        access_log=False,  # the application writes its own
        log_config=None,
        server_header=False,
        proxy_headers=behind_proxy is not None,  # by default uvicorn trusts every client on this machine
        forwarded_allow_ips=behind_proxy,
        timeout_graceful_shutdown=math.ceil(bounds.deadline) + 1,  # every request ends by its deadline
    )
    _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; to asyncio one number says how many may wait and how many are accepted at a time."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)


def _token(file: Path | None) -> str | None:
    """Read the token, without the white space around it, if there is one.

    Raises:
        ServeError: It is too short, several words, or not in ASCII, which no client could send.
    """
    if file is None and _TOKEN_VARIABLE not in os.environ:
        return None
    where = file or _TOKEN_VARIABLE
    words = _text(os.fsencode(os.environ[_TOKEN_VARIABLE]) if file is None else file.read_bytes(), where).split()
    token = "".join(words)
    if len(words) == 1 and token.isascii() and len(token) >= _SHORTEST_TOKEN:
        return token
    found = f"{len(words)} words" if len(words) != 1 else f"{len(token)} characters"
    raise ServeError(
        f"expected a token of {_SHORTEST_TOKEN} or more ASCII characters in {where}, found {found}\n"
        "  what to do: write one there, such as what `openssl rand -hex 32` prints"
    )


def _text(content: bytes, where: Path | str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ServeError(
            f"expected UTF-8 in {where}, found the byte 0x{content[error.start]:02x} at {error.start}\n"
            "  what to do: save it as UTF-8"
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    """Bind the address; before models are loaded, so that one that is taken is reported at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named since asyncio turns Nagle's algorithm off only for sockets that know theirs; with it, an
    # answer waits until the client has acknowledged its headers, some 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # a restart need not wait for old connections; on Windows it would take a used port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise ServeError(
            f"expected to listen at {host} port {port}, found: {error.strerror or error}\n"
            "  what to do: name another --port or --host"
        ) from None
    return listener
