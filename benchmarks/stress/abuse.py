"""One abusive client of each kind beside another client: what the other one waits, and what memory the server takes.

    python benchmarks/stress/abuse.py

For each kind a server is started anew. The abusive client, in a process of its own and from an address of its own, has
60 connections at a time, each of which asks again as soon as it is answered or refused. Meanwhile the other client asks
for `/healthz` and for an answer to a short text in turn, over a connection of its own each time. Two students are made
on the spot: one of texts with n-grams beside its recurrence, and one of pairs.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import POTSTILL, Run, arguments, target, write_result
from load import Server, sampled

ABUSER = "127.0.0.9"
CONNECTIONS, BURST = 60, 1000
BODY = 1_000_000
"""Bytes of most bodies: nearly as long as they may be."""
SLOWEST, GROWTH = 1.0, 1.5
"""Seconds of the other client's 99th percentile, and the server's memory over that before, at most."""
OPEN_FILES = 160
"""Files that the server may open, sockets among them."""
WARM_UP = 300
"""Short requests before the memory is looked at, which fill what every server fills."""
TRAINING = ("--epochs", "1", "--seeds", "0", "--max-length", "512")


def bodies(pairs: bool) -> dict[str, bytes]:
    """Make a body of each kind."""
    draw = random.Random(0)  # noqa: S311

    def full(words: list[str], between: str, count: int) -> bytes:
        text = between.join(draw.choices(words, k=10_000))[: 9_800 // (1 + pairs)]
        texts = [[text, text] if pairs else f"{number} {text}" for number in range(count)]
        return json.dumps({"texts": texts}, ensure_ascii=False).encode()

    return {
        "nested JSON": b"[" * BODY,
        "nested JSON in a text": b'{"text":' + b"[" * BODY,
        "nested objects": b'{"a":' * (BODY // 5),
        "many values": json.dumps({"texts": [""] * (BODY // 4)}).encode(),
        "many fields": json.dumps({f"field{number}": 1 for number in range(BODY // 17)}).encode(),
        "escapes": json.dumps({"text": "\x01" * (BODY // 6)}).encode(),
        "quotation marks": b'"' * BODY,
        "long texts": full([f"word{number}" for number in range(5000)], " ", 100),
        "long texts without spaces": full([*"abcdefghijklmnop"], "", 100),
        "long texts, Chinese": full([chr(0x4E00 + number) for number in range(20_000)], "", 33),
    }


def send(port: int, body: bytes | None, source: str) -> int:
    """Ask for an answer to `body`, or for /healthz, over a new connection; returns the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(source, 0))
    try:
        if body is None:
            connection.request("GET", "/healthz")
        else:
            connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def connect(port: int, seconds: float, pause: float) -> None:
    """Open many connections at once and send nothing; close them after `pause` seconds, and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        held = [socket.socket() for _ in range(BURST)]
        for one in held:
            one.setblocking(False)
            one.bind((ABUSER, 0))
            one.connect_ex(("127.0.0.1", port))
        time.sleep(pause)
        for one in held:
            one.close()


def flood(port: int, seconds: float, body: bytes) -> None:
    """Send `body` over many connections, again and again."""
    until = time.monotonic() + seconds

    def repeat() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException):
                send(port, body, ABUSER)

    threads = [threading.Thread(target=repeat) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def abuse(port: int, kind: str, seconds: float, pairs: bool) -> None:
    """Be the abusive client."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * BURST, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    ways: dict[str, Callable[[], None]] = {
        "idle connections": lambda: connect(port, seconds, seconds / 2),
        "bursts of connections": lambda: connect(port, seconds, 0.1),
    }
    (ways.get(kind) or (lambda: flood(port, seconds, bodies(pairs)[kind])))()


def measure(student: Path, kind: str, seconds: float, pairs: bool) -> Run:
    """Serve a student, abuse the server, and ask it meanwhile."""
    short = json.dumps({"text": ["The cat sat.", "A dog."] if pairs else "The cat sat."}).encode()
    delays, failed = [], 0
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, own[1]))  # the server inherits it
    with Server(student, student.parent / "log") as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, own)
        port = int(server.url.rpartition(":")[2])
        for _ in range(WARM_UP):
            send(port, short, "127.0.0.1")
        with sampled(server.process.pid) as memory:
            time.sleep(1)
            before = memory[-1]
            flags = ["--abuse", kind, "--port", str(port), "--seconds", str(seconds), *(["--pairs"] if pairs else [])]
            with subprocess.Popen([sys.executable, __file__, *flags]) as client:  # noqa: S603
                while client.poll() is None:
                    for body in (None, short):
                        started = time.monotonic()
                        try:
                            failed += send(port, body, "127.0.0.1") != 200
                        except (OSError, http.client.HTTPException):
                            failed += 1
                        delays.append(time.monotonic() - started)
                    time.sleep(0.01)
    name = f"{kind}{', pairs' if pairs else ''}"
    figures: dict[str, Any] = {"requests": len(delays), "failed": failed, "p99_s": float(np.quantile(delays, 0.99))}
    return {"name": name, **figures, "slowest_s": max(delays), "rss_mb_before": before, "rss_mb": max(memory)}


def make_student(work: Path, pairs: bool) -> Path:
    """Train a student on next to nothing."""
    draw, words = random.Random(0), [f"word{number}" for number in range(5000)]  # noqa: S311
    columns = 1 + pairs
    rows = [",".join([*(" ".join(draw.choices(words, k=8)) for _ in range(columns)), "ab"[n % 2]]) for n in range(1000)]
    data, out = work / f"{columns}.csv", work / f"student-{columns}"
    data.write_text("\n".join([",".join([*("text", "pair")[:columns], "label"]), *rows]), encoding="utf-8")
    kind = ["--pair-column", "pair"] if pairs else ["--ngram-size", "16"]
    subprocess.run([*POTSTILL, "train", str(data), *TRAINING, *kind, "--out", str(out)], check=True)  # noqa: S603
    return out


def main() -> None:
    """Measure, or be the abusive client."""
    parser = arguments(__doc__, "stress_abuse", rounds=False, seed=False)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each kind")
    parser.add_argument("--abuse", help="be the abusive client of this kind, and measure nothing")
    parser.add_argument("--port", type=int)
    parser.add_argument("--pairs", action="store_true")
    options = parser.parse_args()
    if options.abuse:
        abuse(options.port, options.abuse, options.seconds, options.pairs)
        return
    runs = []
    with tempfile.TemporaryDirectory() as name:
        for pairs in (False, True):
            student = make_student(Path(name), pairs)
            kinds = ["idle connections", "bursts of connections", *bodies(pairs)]
            for kind in kinds if not pairs else [kind for kind in kinds if kind.startswith("long texts")]:
                runs.append(measure(student, kind, options.seconds, pairs))
                sys.stderr.write(f"{runs[-1]}\n")
    targets = [
        target("the other client's 99th percentile, s", SLOWEST, max(run["p99_s"] for run in runs), "at most"),
        target("requests of the other client that failed", 0, sum(run["failed"] for run in runs)),
        target("memory over that before", GROWTH, max(run["rss_mb"] / run["rss_mb_before"] for run in runs), "at most"),
    ]
    write_result(options.out, runs, targets=targets)
    sys.exit(0 if all(one["met"] for one in targets) else 1)


if __name__ == "__main__":
    main()
