"""The server under load: 64 clients for a minute, more than it takes, and what is lost when it is killed.

    python benchmarks/load.py --student runs/NAME

`potstill serve` runs as its users run it, on loopback; the clients are locust's (`load_users.py`), from this machine
too, so that they take processor time from the server. In turn:

- `library`: the same texts by `Classifier.predict` in a process of its own, with one thread: as many a call as a
  request holds, and as many as one may hold. The faster one counts.
- `steady`: 64 clients for --seconds.
- `one address`: 256 clients, which are one to the server since they share an address, ask for more than one's share.
- `overload`: 256 clients with 64 texts each, four times what the queue takes, come back at once when they are refused,
  for --seconds. For them the server has --client-share 1: else they would not get as far as the queue. It must answer
  some and refuse the others with a reason, and hold no more memory at the end than after the first third.
- `server killed`: 64 clients, and half way the process is killed. Every request ends, none times out: those under way
  then are answered or their connection breaks, later ones are refused a connection. Then it is started again and
  answers.

The clients are closed loops: each waits for its answer before it asks again, so that a server which slows down is asked
less, and delays say nothing of requests that would have come meanwhile. `p50_ms` and `p99_ms` come from locust's
histogram, which rounds to two digits (below 100 ms to whole ones).

What this needs beside Potstill: pip install 'potstill[benchmarks,serve]'
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from common import POTSTILL, Run, arguments, run_json, target, write_result
from potstill.config import DataConfig
from potstill.data import load_corpus
from potstill.predict.directory import find_student
from potstill.serve.limits import Limits

BASELINES, USERS = (Path(__file__).with_name(name) for name in ("baselines.py", "load_users.py"))
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


def main() -> None:
    """Put the server under load and write the result."""
    parser = arguments(__doc__, rounds=False, seed=False)
    parser.add_argument("--student", type=Path, required=True, help="an export, a student or a run")
    parser.add_argument("--seconds", type=float, default=60.0, help="of steady load, overload; a third for others")
    size_help = "texts in a request; 64 clients with 16 have 1,024 under way, half of what one address may have"
    parser.add_argument("--size", type=int, default=16, help=size_help)
    args = parser.parse_args()
    student, short = find_student(args.student), args.seconds / 3
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        texts = work / "texts.json"
        texts.write_text(json.dumps(load_corpus(DataConfig()).test.texts), encoding="utf-8")

        def library(size: int) -> Run:
            flags = ["--texts", texts, "--size", size, "--seconds", 5, "--repeat"]
            found = run_json([sys.executable, BASELINES, "student", student, *flags])
            rates = {"texts_per_s": found["sentences_per_s"], "rss_mb": found["rss_mb"]}
            return {"name": f"library, {size} a call", **rates}

        runs = [library(size) for size in sorted({args.size, Limits().max_texts})]
        with Server(student, work / "log") as server:
            runs.append({"name": "steady", **ask(server, texts, CONNECTIONS, args.size, args.seconds)})
            runs.append({"name": "one address", **ask(server, texts, MANY, args.size, short)})
        with Server(student, work / "log", ["--client-share", "1"]) as server:
            runs.append({"name": "overload", **ask(server, texts, MANY, OVERLOAD_SIZE, args.seconds)})
            runs[-1]["recovered"] = server.answers()
        with Server(student, work / "log") as server:
            killed = ask(server, texts, CONNECTIONS, args.size, short, server.process.kill)
            runs.append({"name": "server killed", **killed})
        with Server(student, work / "log") as server:
            runs[-1]["recovered"] = server.answers()
    write_result(args.out, runs, texts_per_request=args.size, targets=targets({run["name"]: run for run in runs}))


class Server:
    """`potstill serve` in a process of its own."""

    def __init__(self, student: Path, log: Path, flags: Sequence[str] = ()) -> None:
        self._command = [*POTSTILL, "serve", "--port", "0", str(student), *flags]
        self._log = log

    def __enter__(self) -> Server:
        """Start, and wait until it answers."""
        with self._log.open("wb") as log:  # a pipe without a reader would block the server
            self.process = subprocess.Popen(self._command, stderr=log)  # noqa: S603
        self.url = f"http://127.0.0.1:{self._port()}"
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()

    def _port(self) -> int:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            log = self._log.read_text(encoding="utf-8")
            if "startup complete" in log and (found := re.search(r"serving .*:(\d+)\"", log)):
                return int(found[1])
            time.sleep(0.05)
        sys.exit(f"the server did not start:\n{self._log.read_text(encoding='utf-8')}")

    def answers(self, text: str = "Is it so?") -> bool:
        """Return whether a request is answered."""
        body, headers = json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
        try:
            request = urllib.request.Request(f"{self.url}/v1/predict", body, headers)  # noqa: S310
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310
                return bool(response.status == 200)
        except urllib.error.HTTPError:
            return False


def ask(
    server: Server, texts: Path, users: int, size: int, seconds: float, kill: Callable[[], None] | None = None
) -> Run:
    """Let `users` ask for so many seconds, `size` texts a request; call `kill` half way."""
    begun, killed = (texts.with_name(name) for name in ("begun", "killed"))
    begun.unlink(missing_ok=True)
    names = {"TEXTS": str(texts), "BEGUN": str(begun), "KILLED": str(killed), "SIZE": str(size)}
    flags = ["--headless", "--users", users, "--spawn-rate", users, "--run-time", f"{max(1, round(seconds))}s"]
    # What is under way at the end is waited for: no request is left out of the count.
    flags += ["--host", server.url, "--json", "--skip-log", "--stop-timeout", 90]

    def kill_half_way() -> None:
        until = time.monotonic() + PATIENCE
        while not begun.exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(seconds / 2)
        killed.write_text(str(time.time()), encoding="utf-8")  # first: later requests are not under way
        if kill is not None:
            kill()

    thread = threading.Thread(target=kill_half_way)
    with sampled(server.process.pid) as memory:
        if kill is not None:
            thread.start()
        result = subprocess.run(  # noqa: S603
            list(map(str, [sys.executable, "-m", "locust", "-f", USERS, *flags])),
            env=os.environ | {f"POTSTILL_LOAD_{name}": value for name, value in names.items()},
            capture_output=True,
            text=True,
            check=False,  # failed requests give a status, too
        )
        if kill is not None:
            thread.join()
    try:
        entries = json.loads(result.stdout)
    except ValueError:
        sys.exit(f"locust failed:\n{result.stderr}\n{result.stdout}")
    return {"connections": users, "texts_per_request": size} | summarise(entries, size) | peaks(memory)


def peaks(memory: Sequence[float]) -> Run:
    """Return the most memory of the first third, of the last third and of all."""
    third = max(1, len(memory) // 3)
    parts = {"rss_mb_early": memory[:third], "rss_mb_late": memory[-third:], "rss_mb": memory}
    return {name: max(part, default=0.0) for name, part in parts.items()}


@contextlib.contextmanager
def sampled(pid: int) -> Iterator[list[float]]:
    """Look at a process's resident memory, in MB, until the context ends or the process does."""
    found: list[float] = []
    done = threading.Event()

    def look() -> None:
        with contextlib.suppress(psutil.Error):  # it has ended
            while not done.wait(SAMPLED):
                found.append(psutil.Process(pid).memory_info().rss / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def summarise(entries: Sequence[dict[str, Any]], size: int) -> Run:
    """Add locust's entries up, one for each status."""
    by_status = {entry["name"]: entry["num_requests"] for entry in entries}
    begun = min(entry["start_time"] for entry in entries)
    seconds = max(entry["last_request_timestamp"] for entry in entries) - begun
    run: Run = {
        "requests": sum(by_status.values()),
        "by_status": by_status,
        "failures": sum(entry["num_failures"] for entry in entries),
        "seconds": seconds,
        "requests_per_s": sum(by_status.values()) / seconds,
        "texts_per_s": by_status.get("200", 0) * size / seconds,
        "slowest_ms": max(entry["max_response_time"] for entry in entries),
    }
    if (answered := next((entry for entry in entries if entry["name"] == "200"), None)) is not None:
        delays = np.repeat(*zip(*((float(ms), count) for ms, count in answered["response_times"].items()), strict=True))
        run |= {"p50_ms": float(np.quantile(delays, 0.5)), "p99_ms": float(np.quantile(delays, 0.99))}
    return run


def targets(runs: dict[str, Run]) -> list[dict[str, Any]]:
    """Compare the results with what is wanted."""
    steady, one, overload, server = (runs[name] for name in ("steady", "one address", "overload", "server killed"))
    slower = max(run["texts_per_s"] for name, run in runs.items() if name.startswith("library")) / steady["texts_per_s"]
    growth = overload["rss_mb_late"] / overload["rss_mb_early"]
    unanswered = steady["requests"] - steady["by_status"].get("200", 0)
    # A connection that breaks, or is refused, is told to the client; what ended otherwise, unexplained, is a loss.
    late, told = ended(server, "timed out"), ended(server, "broken", "refused")
    other = server["failures"] - told - late
    under_way = bool(ended(server, "200") and ended(server, BROKEN))  # so that the kill came in between
    return [
        target("steady load: requests without an answer", 0, unanswered),
        target("steady load: times slower than the library at its fastest", WITHIN, slower, "at most"),
        target("one address: requests refused for its share (429)", 1, ended(one, "429"), "at least"),
        target("one address: requests that failed", 0, one["failures"]),
        target("overload: requests refused for a full server (503)", 1, ended(overload, "503"), "at least"),
        target("overload: requests that failed", 0, overload["failures"]),
        target("overload: growth of memory", GROWTH, growth, "at most"),
        target("overload: answers afterwards", 1, int(overload["recovered"])),
        target("server killed with requests under way", 1, int(under_way)),
        target("server killed: requests that timed out", 0, late),
        target("server killed: requests that failed but for a broken or refused connection", 0, other),
        target("server killed: answers when started again", 1, int(server["recovered"])),
    ]


def ended(run: Run, *how: str) -> int:
    """Count the requests that ended so, whenever they began."""
    return sum(count for status, count in run["by_status"].items() if status.startswith(how))


if __name__ == "__main__":
    main()
