"""The server under load: 64 clients for a minute, more than it takes, and what is lost when it or its worker is killed.

    python benchmarks/load.py --student runs/NAME

`potstill serve` runs as its users run it, on loopback, with its default limits but where it says otherwise; the clients
are locust's (`load_users.py`), from this machine too, so that they take processor time from the server. In turn:

- `library`: the same texts by `Classifier.predict` in a process of its own, with one thread: as many a call as a
  request holds, and as many as the server computes at once. Before the server's turn and after it, since a machine may
  be slower for a while; the fastest counts.
- `steady`: 64 clients for --seconds.
- `one address`: 256 clients, which are one to the server since they share an address, ask for more than one's share.
- `worker killed`: 64 clients, and half way something raises SystemExit in the thread that computes. What was accepted
  is answered, or refused with a reason; afterwards the server is ready and answers.
- `overload`: 256 clients with 64 texts each, four times what the queue takes, come back at once when they are refused,
  for --seconds. For them the server has --client-share 1: else they would not get as far as the queue. It must answer
  some and refuse the others with a reason, and hold no more memory at the end than after the first third.
- `server killed`: 64 clients, and half way the process is killed. Every request ends, none times out: those under way
  then are answered or their connection breaks, later ones are refused a connection. Then it is started again and
  answers.

Resident memory is sampled all the time. The clients are closed loops: each waits for its answer before it asks again,
so that a server which slows down is asked less, and delays say nothing of requests that would have come meanwhile.
`p50_ms` and `p99_ms` come from locust's histogram, which rounds to two digits (below 100 ms to whole ones). The result
is `benchmarks/results/load.json`.

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

from common import RESULTS, Run, at_least, at_most, exactly, resident_mb, write_result
from potstill.config import DataConfig
from potstill.data import load_corpus
from potstill.runtime.directory import find_student
from potstill.server.limits import Limits

CONTESTANTS, USERS = (Path(__file__).with_name(name) for name in ("contestants.py", "load_users.py"))
CONNECTIONS, MANY = 64, 256
OVERLOAD_SIZE = 64
"""Texts in a request of an overload: 256 clients ask for four times as many as the queue takes."""
BROKEN = "broken, under way when killed"
"""How `load_users.py` counts a request that the server's death cut off."""
SAMPLED = 0.25
"""Seconds between two looks at the server's memory."""
PATIENCE = 60.0
"""Seconds that a server, or the clients, may take to start."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, required=True, help="an export, a student or a run")
    parser.add_argument("--int8", action="store_true", help="serve its 8-bit variant")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of steady load and of overload; a third for others"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=16,
        help="texts in a request; 64 clients with 16 have 1,024 under way, half of the 2,048 that one address may have",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "load.json", help="result file")
    args = parser.parse_args()
    student = find_student(args.student)
    with tempfile.TemporaryDirectory() as work:
        texts = Path(work) / "texts.json"
        texts.write_text(json.dumps(load_corpus(DataConfig()).evaluation.texts), encoding="utf-8")
        load = _Load(texts)
        short = args.seconds / 3
        flags = ["--int8"] if args.int8 else []
        sizes = sorted({args.size, Limits().batch_texts})
        runs = [_library(student, texts, size, "before", int8=args.int8) for size in sizes]
        with _Server(student, Path(work) / "log", flags) as server:
            runs.append({"name": "steady", **load.run(server, CONNECTIONS, args.size, args.seconds)})
            runs.append({"name": "one address", **load.run(server, MANY, args.size, short)})
            runs.append(
                {"name": "worker killed", **load.run(server, CONNECTIONS, args.size, short, server.kill_workers)}
            )
            runs[-1]["broken_off"] = server.broken_off()
            runs[-1]["recovered"] = server.is_ready() and server.answers()
        with _Server(student, Path(work) / "log", [*flags, "--client-share", "1"]) as server:
            runs.append({"name": "overload", **load.run(server, MANY, OVERLOAD_SIZE, args.seconds)})
            runs[-1]["recovered"] = server.answers()
        with _Server(student, Path(work) / "log", flags) as server:
            runs.append({"name": "server killed", **load.run(server, CONNECTIONS, args.size, short, server.kill)})
        with _Server(student, Path(work) / "log", flags) as server:
            runs[-1]["recovered"] = server.answers()
        runs += [_library(student, texts, size, "after", int8=args.int8) for size in sizes]
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
        """Raise SystemExit in the threads that compute."""
        self._process.send_signal(signal.SIGUSR1)

    def answers(self) -> bool:
        """Say whether a request is answered."""
        body, headers = json.dumps({"text": "Is it so?"}).encode(), {"Content-Type": "application/json"}
        return self._status(urllib.request.Request(f"{self.url}/v1/predict", body, headers)) == 200  # noqa: S310

    def is_ready(self) -> bool:
        """Say whether it thinks itself ready."""
        return self._status(urllib.request.Request(f"{self.url}/readyz")) == 200  # noqa: S310

    def broken_off(self) -> int:
        """Return how often an error broke a worker's batch off."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE) as response:  # noqa: S310
            metrics = response.read().decode()
        return sum(
            int(float(count)) for count in re.findall(r"^potstill_batches_broken_off_total.* (\S+)$", metrics, re.M)
        )

    def _status(self, request: urllib.request.Request) -> int:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code


class _Load:
    """Clients that ask."""

    def __init__(self, texts: Path) -> None:
        self._begun, self._killed = (texts.with_name(name) for name in ("begun", "killed"))
        self._environment = os.environ | {
            "POTSTILL_LOAD_TEXTS": str(texts),
            "POTSTILL_LOAD_BEGUN": str(self._begun),
            "POTSTILL_LOAD_KILLED": str(self._killed),
        }

    def run(
        self, server: _Server, users: int, size: int, seconds: float, kill: Callable[[], None] | None = None
    ) -> Run:
        """Let `users` ask for so many seconds, `size` texts a request; kill something half way."""
        flags = ["--headless", "--users", users, "--spawn-rate", users, "--run-time", f"{max(1, round(seconds))}s"]
        # What is under way at the end is waited for: no request is left out of the count.
        flags += ["--host", server.url, "--json", "--skip-log", "--stop-timeout", 90]
        command = [sys.executable, "-m", "locust", "-f", USERS, *flags]
        environment = self._environment | {"POTSTILL_LOAD_SIZE": str(size)}
        self._begun.unlink(missing_ok=True)
        event = None if kill is None else threading.Thread(target=self._kill, args=[seconds / 2, kill])
        with _sampled(server.pid) as memory:
            if event is not None:
                event.start()
            result = subprocess.run(  # noqa: S603
                list(map(str, command)), env=environment, capture_output=True, text=True, check=False
            )
            if event is not None:
                event.join()
        try:
            entries = json.loads(result.stdout)
        except ValueError:
            sys.exit(f"locust failed:\n{result.stderr}\n{result.stdout}")
        return {"connections": users, "texts_per_request": size} | _summary(entries, size) | _growth(memory)

    def _kill(self, after: float, kill: Callable[[], None]) -> None:
        """Kill something so many seconds after the clients have begun."""
        until = time.monotonic() + PATIENCE
        while not self._begun.exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(after)
        self._killed.write_text(str(time.time()), encoding="utf-8")  # first: later requests are not under way
        kill()


def _library(student: Path, texts: Path, size: int, when: str, *, int8: bool) -> Run:
    """Ask the library for the same, `size` texts a call."""
    kind = "student_int8" if int8 else "student"
    command = [sys.executable, CONTESTANTS, kind, student, "--texts", texts, "--size", size, "--seconds", 5, "--repeat"]
    result = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    measured = json.loads(result.stdout)
    name = f"library, {size} a call, {when}"
    return {"name": name, "texts_per_s": measured["sentences_per_s"], "rss_mb": measured["rss_mb"]}


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
    steady, one, overload, worker, server = (
        runs[name] for name in ("steady", "one address", "overload", "worker killed", "server killed")
    )
    library = max(run["texts_per_s"] for name, run in runs.items() if name.startswith("library"))
    slower = library / steady["texts_per_s"]
    growth = overload["rss_mb_late"] / overload["rss_mb_early"]
    unanswered = steady["requests"] - steady["by_status"].get("200", 0)
    # A connection that breaks, or is refused, is told to the client; what ended otherwise, unexplained, is a loss.
    late, told = _ended(server, "timed out"), _ended(server, "broken", "refused")
    other = server["failures"] - told - late
    return [
        exactly("steady load: requests without an answer", 0, unanswered),
        at_most("steady load: times slower than the library at its fastest", WITHIN, slower),
        at_least("one address: requests refused for its share (429)", 1, one["by_status"].get("429", 0)),
        exactly("one address: requests that failed", 0, one["failures"]),
        at_least("worker killed under load: batches broken off", 1, worker["broken_off"]),
        exactly("worker killed: requests without answer or reason", 0, worker["failures"]),
        exactly("worker killed: ready and answers afterwards", 1, int(worker["recovered"])),
        at_least("overload: requests refused for a full server (503)", 1, overload["by_status"].get("503", 0)),
        exactly("overload: requests that failed", 0, overload["failures"]),
        at_most("overload: growth of memory", GROWTH, growth),
        exactly("overload: answers afterwards", 1, int(overload["recovered"])),
        exactly("server killed with requests under way", 1, int(_both(server, BROKEN))),
        exactly("server killed: requests that timed out", 0, late),
        exactly("server killed: requests that failed but for a broken or refused connection", 0, other),
        exactly("server killed: answers when started again", 1, int(server["recovered"])),
    ]


def _ended(run: Run, *how: str) -> int:
    """Count the requests that ended so, whenever they began."""
    return sum(count for status, count in run["by_status"].items() if status.startswith(how))


def _both(run: Run, status: str) -> bool:
    """Say whether requests ended well and with `status`, so that what killed it came in between."""
    return bool(run["by_status"].get("200") and run["by_status"].get(status))


if __name__ == "__main__":
    main()
