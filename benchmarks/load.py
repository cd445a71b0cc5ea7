"""The server under load: 64 clients for a minute, four times as many, and what is lost when it dies.

    python benchmarks/load.py --student runs/NAME

`potstill serve` runs as its users run it, on loopback, with its default limits; the clients are locust's
(`load_users.py`), from this machine too, so that they take processor time from the server. In turn:

- `library`: the same texts, as many a call, by `Classifier.predict` in a process of its own, with one thread.
- `steady`: 64 clients for --seconds.
- `overload`: four times as many clients, who come back at once when they are refused. The server must answer some and
  refuse the others with a reason, and hold no more memory at the end than after the first third.
- `worker killed`: 64 clients, and half way the thread that computes ends. What was accepted is answered, or refused
  with a reason.
- `server killed`: 64 clients, and half way the process is killed. Every request ends: answered, or with a connection
  that breaks. Then it is started again and answers.

Resident memory is sampled all the time. The result is `benchmarks/results/load.json`.

What this needs beside Potstill: pip install 'potstill[benchmarks,serve]'
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common import Run, arguments, resident_mb, write_result
from potstill.config import DataConfig
from potstill.data import load_corpus
from potstill.runtime.directory import find_student

CONTESTANTS, USERS = (Path(__file__).with_name(name) for name in ("contestants.py", "load_users.py"))
CONNECTIONS, OVERLOAD = 64, 4
SAMPLED = 0.25
"""Seconds between two looks at the server's memory."""
PATIENCE = 60.0
"""Seconds that a server may take to start."""
STARTING = 2.0
"""Seconds that locust takes to start, about."""
WITHIN = 2.0
"""The server's rate is to be within this factor of the library's."""
GROWTH = 1.2
"""Memory at the end of the overload over that after its first third, at most: allocators don't give back at once."""

SERVE = """
import ctypes, signal, sys, threading
from potstill.cli import main

def kill_workers(*_):
    for thread in threading.enumerate():
        if thread.name.startswith("potstill-"):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))

signal.signal(signal.SIGUSR1, kill_workers)
main(sys.argv[1:])
"""
"""`potstill serve`, whose workers a signal can kill."""


def main() -> None:
    """Put the server under load and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--student", type=Path, required=True, help="an export, a student or a run")
    parser.add_argument("--int8", action="store_true", help="serve its 8-bit variant")
    parser.add_argument("--seconds", type=float, default=60.0, help="of steady load; a third of it for the others")
    parser.add_argument("--size", type=int, default=16, help="texts in a request; 64 of them are one client's share")
    args = parser.parse_args()
    student = find_student(args.student)
    with tempfile.TemporaryDirectory() as work:
        texts = Path(work) / "texts.json"
        texts.write_text(json.dumps(load_corpus(DataConfig()).evaluation.texts), encoding="utf-8")
        load = _Load(texts, args.size)
        short = args.seconds / 3
        flags = ["--int8"] if args.int8 else []
        runs = [_library(student, texts, args)]
        with _Server(student, Path(work) / "log", flags) as server:
            runs.append({"name": "steady", **load.run(server, CONNECTIONS, args.seconds)})
            runs.append({"name": "overload", **load.run(server, OVERLOAD * CONNECTIONS, short)})
            runs[-1]["recovered"] = server.answers()
            runs.append({"name": "worker killed", **load.run(server, CONNECTIONS, short, server.kill_workers)})
            runs[-1]["not_ready"] = not server.is_ready()
        with _Server(student, Path(work) / "log", flags) as server:
            runs.append({"name": "server killed", **load.run(server, CONNECTIONS, short, server.kill)})
        with _Server(student, Path(work) / "log", flags) as server:
            runs[-1]["recovered"] = server.answers()
    write_result(args.out, runs, texts_per_request=args.size, targets=_targets({run["name"]: run for run in runs}))


class _Server:
    """`potstill serve` in a process of its own."""

    def __init__(self, student: Path, log: Path, flags: Sequence[str]) -> None:
        self._command = [sys.executable, "-c", SERVE, "serve", "--port", "0", str(student), *flags]
        self._log = log

    def __enter__(self) -> _Server:
        with self._log.open("wb") as log:  # a pipe that nobody reads would hold the server up
            self._process = subprocess.Popen(self._command, stderr=log)  # noqa: S603
        self.pid = self._process.pid
        self.url = f"http://127.0.0.1:{self._port()}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()

    def _port(self) -> int:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._process.poll() is None:
            log = self._log.read_text(encoding="utf-8")
            if "startup complete" in log and (found := re.search(r"serving .*:(\d+)\"", log)):
                return int(found[1])
            time.sleep(0.05)
        sys.exit(f"the server did not start:\n{self._log.read_text(encoding='utf-8')}")

    def kill(self) -> None:
        """Kill it as the system would."""
        self._process.kill()

    def kill_workers(self) -> None:
        """End the threads that compute."""
        self._process.send_signal(signal.SIGUSR1)

    def answers(self) -> bool:
        """Say whether a request is answered."""
        body, headers = json.dumps({"text": "Is it so?"}).encode(), {"Content-Type": "application/json"}
        return self._status(urllib.request.Request(f"{self.url}/v1/predict", body, headers)) == 200  # noqa: S310

    def is_ready(self) -> bool:
        """Say whether it thinks itself ready."""
        return self._status(urllib.request.Request(f"{self.url}/readyz")) == 200  # noqa: S310

    def _status(self, request: urllib.request.Request) -> int:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code


class _Load:
    """Clients that ask."""

    def __init__(self, texts: Path, size: int) -> None:
        self._environment = os.environ | {"POTSTILL_LOAD_TEXTS": str(texts), "POTSTILL_LOAD_SIZE": str(size)}
        self._size = size

    def run(self, server: _Server, users: int, seconds: float, half_way: Callable[[], None] | None = None) -> Run:
        """Ask for so many seconds; do something to the server half way."""
        flags = ["--headless", "--users", users, "--spawn-rate", users, "--run-time", f"{max(1, round(seconds))}s"]
        # What is under way at the end is waited for: no request is left out of the count.
        flags += ["--host", server.url, "--json", "--skip-log", "--stop-timeout", 90]
        command = [sys.executable, "-m", "locust", "-f", USERS, *flags]
        event = None if half_way is None else threading.Timer(STARTING + seconds / 2, half_way)
        with _sampled(server.pid) as memory:
            if event is not None:
                event.start()
            result = subprocess.run(  # noqa: S603
                list(map(str, command)), env=self._environment, capture_output=True, text=True, check=False
            )
            if event is not None:
                event.join()
        try:
            entries = json.loads(result.stdout)
        except ValueError:
            sys.exit(f"locust failed:\n{result.stderr}\n{result.stdout}")
        return {"connections": users} | _summary(entries, self._size) | _growth(memory)


def _library(student: Path, texts: Path, args: argparse.Namespace) -> Run:
    """Ask the library for the same."""
    kind = "student_int8" if args.int8 else "student"
    command = [sys.executable, CONTESTANTS, kind, student, "--texts", texts, "--size", args.size, "--seconds", 5]
    result = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    measured = json.loads(result.stdout)
    return {"name": "library", "texts_per_s": measured["sentences_per_s"], "rss_mb": measured["rss_mb"]}


@contextmanager
def _sampled(pid: int) -> Iterator[list[float]]:
    """Look at a process's resident memory, in MB, until the context ends or the process does."""
    found: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(SAMPLED):
            if megabytes := resident_mb(pid):  # none: it has been killed
                found.append(megabytes)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _growth(memory: Sequence[float]) -> Run:
    """Tell how much memory was held after the first third, and at most in the last."""
    third = max(1, len(memory) // 3)
    return {"rss_mb_early": max(memory[:third]), "rss_mb_late": max(memory[-third:]), "rss_mb": max(memory)}


def _summary(entries: Sequence[dict[str, Any]], size: int) -> Run:
    """Add locust's entries up, one for each status."""
    by_status = {entry["name"]: entry["num_requests"] for entry in entries}
    failures = sum(entry["num_failures"] for entry in entries)
    begun = min(entry["start_time"] for entry in entries)
    seconds = max(entry["last_request_timestamp"] for entry in entries) - begun
    answered = next((entry for entry in entries if entry["name"] == "200"), None)
    run: Run = {
        "requests": sum(by_status.values()),
        "by_status": by_status,
        "failures": failures,
        "seconds": seconds,
        "requests_per_s": sum(by_status.values()) / seconds,
        "texts_per_s": by_status.get("200", 0) * size / seconds,
        "slowest_ms": max(entry["max_response_time"] for entry in entries),
    }
    if answered is not None:
        delays = np.repeat(*zip(*((float(ms), count) for ms, count in answered["response_times"].items()), strict=True))
        run |= {"p50_ms": float(np.quantile(delays, 0.5)), "p99_ms": float(np.quantile(delays, 0.99))}
    return run


def _targets(runs: dict[str, Run]) -> list[dict[str, Any]]:
    """Say what was wanted, what was found, and whether that will do."""
    steady, overload, worker, server = (runs[name] for name in ("steady", "overload", "worker killed", "server killed"))
    slower = runs["library"]["texts_per_s"] / steady["texts_per_s"]
    growth = overload["rss_mb_late"] / overload["rss_mb_early"]
    shed = sum(overload["by_status"].get(status, 0) for status in ("429", "503"))
    unanswered = steady["requests"] - steady["by_status"].get("200", 0)
    # A connection that breaks is told to the client; what ended otherwise, unexplained, is a loss.
    lost = server["failures"] - server["by_status"].get("0", 0)
    rows = [
        ("steady load: requests without an answer", 0, unanswered, unanswered == 0),
        ("steady load: times slower than the library, at most", WITHIN, slower, slower <= WITHIN),
        ("overload: requests refused with a reason, at least", 1, shed, shed >= 1),
        ("overload: requests that failed", 0, overload["failures"], overload["failures"] == 0),
        ("overload: growth of memory, at most", GROWTH, growth, growth <= GROWTH),
        ("overload: answers afterwards", 1, int(overload["recovered"]), overload["recovered"]),
        ("worker killed under load", 1, int(_both(worker, "503")), _both(worker, "503")),
        ("worker killed: requests without answer or reason", 0, worker["failures"], worker["failures"] == 0),
        ("worker killed: says that it is not ready", 1, int(worker["not_ready"]), worker["not_ready"]),
        ("server killed under load", 1, int(_both(server, "0")), _both(server, "0")),
        ("server killed: requests without answer or broken connection", 0, lost, lost == 0),
        ("server killed: answers when started again", 1, int(server["recovered"]), server["recovered"]),
    ]
    return [{"what": what, "wanted": wanted, "found": found, "met": met} for what, wanted, found, met in rows]


def _both(run: Run, status: str) -> bool:
    """Say whether requests ended well and with `status`, so that what killed it came in between."""
    return bool(run["by_status"].get("200") and run["by_status"].get(status))


if __name__ == "__main__":
    main()
