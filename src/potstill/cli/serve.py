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
from typing import TYPE_CHECKING, Any, Final

import click
import uvicorn
from pydantic import ValidationError

from potstill.cli.options import runtime_options, runtime_settings
from potstill.errors import ServeError
from potstill.server import create_app
from potstill.server.limits import Limits
from potstill.server.middleware import JsonLines
from potstill.server.models import find_models, open_models

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


_TOKEN_VARIABLE: Final = "POTSTILL_TOKEN"  # noqa: S105 - its name, not a token
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_BACKLOG: Final = 2048
"""Connections that may wait to be accepted: a burst should be refused in words, not by the operating system."""
_MOST_EXAMPLES: Final = 8
"""As many as the page has room for."""


def _with_limits(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for each of the limits; its help is the field's own documentation."""
    for name, field in reversed(Limits.model_fields.items()):
        text = " ".join((field.description or "").replace("`", "").split())
        command = click.option(
            f"--{name.replace('_', '-')}",
            type=field.annotation,
            default=field.default,
            metavar="N",
            show_default=True,
            help=text,
        )(command)
    return command


def _address(value: str) -> str:
    """Check an address, or a network as `10.0.0.0/8`: uvicorn would take anything else for one that nobody has.

    Raises:
        click.BadParameter: It is neither.
    """
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise click.BadParameter(f"expected an address or a network of them: {error}") from None
    return value


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at: by default this machine's.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"File with the bearer token that clients must send. (Or the environment's {_TOKEN_VARIABLE}; never a flag, "
    "which others on this machine could read.)  [default: no token]",
)
@click.option(
    "--behind-proxy",
    type=_address,
    metavar="ADDRESS",
    help="Address of the reverse proxy (or a network, as 10.0.0.0/8) whose X-Forwarded-For is believed, so that each "
    "of its clients has a share of its own; others who send it could pretend to be many.  [default: none]",
)
@click.option("--with-teacher", is_flag=True, help="Serve a run's best teacher too; needs torch.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Threads of one student's computation. 1: its matrices are too small to be worth sharing out, and the other "
    "cores are for HTTP and the other models.",
)
@click.option("--int8", is_flag=True, help="Serve students' 8-bit variants, which `potstill export` writes.")
@click.option(
    "--examples",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Texts that the page offers, one a line (pairs with a tab between).  [default: the page's own]",
)
@runtime_options
@_with_limits
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    token_file: Path | None,
    behind_proxy: str | None,
    with_teacher: bool,
    threads: int,
    int8: bool,
    examples: Path | None,
    device: str | None,
    precision: str | None,
    **limits: Any,
) -> None:
    """Answer over HTTP with saved models, and show a page to try them.

    MODEL is a directory, or NAME=DIRECTORY: a student's, a teacher's, or a run's, which stands for its best distilled
    student and its best baseline. Requests that name no model ask the first.

    \b
      potstill serve runs/NAME
      curl -H 'Content-Type: application/json' -d '{"text": "Is it so?"}' http://127.0.0.1:8000/v1/predict

    The log goes to standard error, a JSON object a line. SIGTERM and Ctrl-C end it: what was accepted is answered
    first.
    """
    # Uvicorn drains on these signals, then raises them again for whoever handled them before: an orderly end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    bounds = _limits(limits)
    token = _token(token_file)
    lines = _examples(examples)
    log = _log()
    directories = find_models(models, with_teacher=with_teacher)
    listener = _listen(host, port)
    served = open_models(directories, threads, lambda: runtime_settings(device, precision), int8=int8)
    if host not in _LOOPBACK and token is None:
        log.warning("other machines can reach this server, and it has no token; see --token-file")
    address, listening_port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    log.info("serving %s at http://%s:%d", ", ".join(directories), shown, listening_port)
    config = uvicorn.Config(
        create_app(served, bounds, token, lines),
        access_log=False,  # the application writes its own
        log_config=None,
        server_header=False,
        # Uvicorn's own default believes every client on this machine.
        proxy_headers=behind_proxy is not None,
        forwarded_allow_ips=behind_proxy,
        # What is accepted ends by its deadline, answered or refused; a second more for writing that.
        timeout_graceful_shutdown=math.ceil(bounds.deadline) + 1,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _limits(values: dict[str, Any]) -> Limits:
    try:
        return Limits(**values)
    except ValidationError as error:
        problems = "; ".join(_problem(one) for one in error.errors())
        raise click.UsageError(problems) from None


def _problem(error: ErrorDetails) -> str:
    flag = f"--{str(error['loc'][0]).replace('_', '-')}: " if error["loc"] else ""
    return flag + error["msg"].removeprefix("Value error, ")


def _token(file: Path | None) -> str | None:
    """Read the token, without the white space around it, if there is one.

    Raises:
        ServeError: It is no text, empty, several words or not in ASCII, which no client could send.
    """
    if file is not None:
        content = file.read_bytes()
    elif _TOKEN_VARIABLE in os.environ:
        content = os.fsencode(os.environ[_TOKEN_VARIABLE])
    else:
        return None
    where = file or _TOKEN_VARIABLE
    words = _text(content, where).split()
    match words:
        case []:
            found = "nothing"
        case [word] if word.isascii():
            return word
        case [_]:
            found = "letters beyond ASCII"
        case _:
            found = f"{len(words)} words"
    raise ServeError(
        f"expected a token in {where}, found {found}\n  what to do: write one there, such as what "
        "`openssl rand -hex 32` prints"
    )


def _examples(file: Path | None) -> list[str]:
    """Read the texts that the page offers.

    Raises:
        ServeError: They are not UTF-8.
    """
    if file is None:
        return []
    return [line for line in _text(file.read_bytes(), file).splitlines() if line.strip()][:_MOST_EXAMPLES]


def _text(content: bytes, where: Path | str) -> str:
    try:
        return content.decode("utf-8-sig")  # some editors put a mark before it, which is part of no token
    except UnicodeDecodeError as error:
        raise ServeError(
            f"expected UTF-8 in {where}, found the byte 0x{content[error.start]:02x} at {error.start}\n"
            "  what to do: save it as UTF-8"
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before models are loaded: where it is taken already, that is told at once."""
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
            f"expected to listen at {host} port {port}, found: {error.strerror or error}\n  what to do: name another "
            "--port or --host"
        ) from None
    return listener


def _log() -> logging.Logger:
    """Send all logs of the server to standard error, as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name in ("potstill", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    return logging.getLogger("potstill.server")
