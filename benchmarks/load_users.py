"""What a client of the load test does, for locust: asks without a pause, and checks each answer.

    POTSTILL_LOAD_TEXTS=texts.json POTSTILL_LOAD_SIZE=32 locust -f benchmarks/load_users.py --headless …

`load.py` calls it so. Requests are counted under the status that they ended with. A request that is refused with a
reason and a time to come back is no failure; all else but an answer is. A request without an answer is counted as
`refused`, `broken` or `timed out`, and apart if it was under way when the server was killed (`POTSTILL_LOAD_KILLED`
names a file with that moment). `POTSTILL_LOAD_BEGUN` names a file that is made when the clients begin.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import gevent
from geventhttpclient.response import HTTPParseError
from locust import FastHttpUser, constant, events, task
from locust.contrib.fasthttp import LocustBadStatusCode

_BEGUN = Path(os.environ.get("POTSTILL_LOAD_BEGUN", os.devnull))
_KILLED = Path(os.environ.get("POTSTILL_LOAD_KILLED", os.devnull))
_SIZE = int(os.environ["POTSTILL_LOAD_SIZE"])
_TEXTS = json.loads(Path(os.environ["POTSTILL_LOAD_TEXTS"]).read_text(encoding="utf-8"))
_BODIES = [
    json.dumps({"texts": [_TEXTS[(start + place) % len(_TEXTS)] for place in range(_SIZE)]}).encode()
    for start in range(0, len(_TEXTS), _SIZE)
]
_NEXT = itertools.cycle(_BODIES)
_SHED = (429, 503)
_TIMEOUTS = (TimeoutError, gevent.Timeout)
_BROKEN = (ConnectionResetError, BrokenPipeError, HTTPParseError)
"""The last one: the connection ended before the answer did."""
_PAUSE = 0.1
"""Seconds until a server that takes no connection is asked again, which otherwise counts how fast clients are."""


@events.test_start.add_listener
def _begin(**_: object) -> None:
    _BEGUN.touch()


class Client(FastHttpUser):
    """One connection, which is always in use."""

    wait_time = constant(0)
    connection_timeout = network_timeout = 60.0  # twice the server's deadline: who waits longer is forgotten

    @task
    def predict(self) -> None:
        """Ask once."""
        headers = {"Content-Type": "application/json"}
        with self.client.post(
            "/v1/predict", data=next(_NEXT), headers=headers, name="request", catch_response=True
        ) as response:
            error = response.request_meta["exception"]
            if error is not None and not isinstance(error, LocustBadStatusCode):
                response.request_meta["name"] = _unanswered(error, response.request_meta["start_time"])
                response.failure(error)
                if isinstance(error, ConnectionRefusedError):
                    gevent.sleep(_PAUSE)
                return
            response.request_meta["name"] = str(response.status_code)
            content = response.content or b""
            answered = response.status_code == 200 and content.count(b'"label"') == _SIZE
            refused = response.status_code in _SHED and "Retry-After" in response.headers and b"what_to_do" in content
            if answered or refused:
                response.success()
            else:
                response.failure(f"{response.status_code}: {content[:200]!r}")


def _unanswered(error: BaseException, started: float) -> str:
    """Name how a request ended that got no answer, and whether it was under way when the server was killed."""
    if isinstance(error, _TIMEOUTS):
        how = "timed out"
    elif isinstance(error, ConnectionRefusedError):
        how = "refused"
    else:
        how = "broken" if isinstance(error, _BROKEN) else type(error).__name__
    killed = _KILLED.read_text(encoding="utf-8") if _KILLED.exists() else ""
    return f"{how}, under way when killed" if killed and started < float(killed) else how
