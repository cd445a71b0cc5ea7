"""What a client of the load test does, for locust: asks without a pause, and checks each answer.

    POTSTILL_LOAD_TEXTS=texts.json POTSTILL_LOAD_SIZE=32 locust -f benchmarks/load_users.py --headless …

`load.py` calls it so. Requests are counted under the status that they ended with; one that was refused with a reason
and a time to come back is no failure, all else but an answer is: a broken connection, a 500, an answer to other texts.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

from locust import FastHttpUser, constant, task

_SIZE = int(os.environ["POTSTILL_LOAD_SIZE"])
_TEXTS = json.loads(Path(os.environ["POTSTILL_LOAD_TEXTS"]).read_text(encoding="utf-8"))
_BODIES = [
    json.dumps({"texts": [_TEXTS[(start + place) % len(_TEXTS)] for place in range(_SIZE)]}).encode()
    for start in range(0, len(_TEXTS), _SIZE)
]
_NEXT = itertools.cycle(_BODIES)
_SHED = (429, 503)


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
            response.request_meta["name"] = str(response.status_code)
            content = response.content or b""
            answered = response.status_code == 200 and content.count(b'"label"') == _SIZE
            refused = response.status_code in _SHED and "Retry-After" in response.headers and b"what_to_do" in content
            if answered or refused:
                response.success()
            else:
                response.failure(f"{response.status_code}: {content[:200]!r}")
