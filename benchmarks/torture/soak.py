"""Many short runs in one process, and an hour of serving: memory, open files and temporary files must not grow.

    python benchmarks/torture/soak.py --runs 200 --serve-minutes 60
    python benchmarks/torture/soak.py --runs 0 --serve-minutes 60     # what the result file knows of runs stays there

A run is the whole of `potstill.run` on a small model. The server is `potstill serve` as a process of its own, asked a
few times a second over HTTP, meanwhile. Both are looked at again and again. Growth is told by the second half of what
was seen, since first calls fill caches: the slope of a straight line through it (Theil-Sen), times the time it spans.
"""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import theilslopes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small

from common import POTSTILL, arguments, write_result
from potstill.files import read_json
from potstill.pipeline import run

MEMORY_GROWTH = 0.02
"""Growth of the memory, as a share of it, that still counts as none: the allocator's own ups and downs."""
PAUSE = 0.2
"""Seconds between two requests: light load, as most servers have it most of the time."""
LOOK = 5.0
"""Seconds between two looks at the server."""
WORDS = 1000
"""Different words at the place where texts differ: a classifier remembers words, as many as a bound allows."""


def look(process: int, temporary: Path) -> dict[str, float]:
    """Look at a process: resident memory in MiB, open files, threads; and how many temporary files there are."""
    proc = Path("/proc", str(process))
    pages = int((proc / "statm").read_text(encoding="ascii").split()[1])
    return {
        "rss_mb": pages * resource.getpagesize() / 2**20,
        "files": len(list((proc / "fd").iterdir())),
        "threads": len(list((proc / "task").iterdir())),
        "temporary": sum(1 for _ in temporary.rglob("*")),
    }


def growth(seen: Sequence[dict[str, float]], name: str) -> float:
    """Return by how much a value grew over the second half of what was seen."""
    values = np.array([one[name] for one in seen[len(seen) // 2 :]])
    if len(values) < 2:
        return 0.0
    slope: float = theilslopes(values)[0]
    return slope * (len(values) - 1)


def verdict(seen: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Say for each value where it began, ended and how it grew; `leaks` names those that did."""
    half = seen[len(seen) // 2 :]
    found: dict[str, Any] = {
        name: {"first": seen[0][name], "last": seen[-1][name], "growth": growth(seen, name)}
        for name in ("rss_mb", "files", "threads", "temporary")
    }
    limits = {"rss_mb": MEMORY_GROWTH * half[0]["rss_mb"], "files": 0.5, "threads": 0.5, "temporary": 0.5}
    return found | {
        "looks": len(seen),
        "leaks": [name for name, most in limits.items() if found[name]["growth"] > most],
    }


def runs(count: int, work: Path, temporary: Path) -> list[dict[str, float]]:
    """Do short runs one after the other; each is looked at when it is over and its directory is gone."""
    config, first = small.make_run(work)
    shutil.rmtree(first)
    seen = []
    for number in range(count):
        _, directory = run(config, work / f"run-{number}")
        shutil.rmtree(directory)
        shutil.rmtree(work / "cache")  # a run that finds everything known would do less
        gc.collect()
        seen.append(look(os.getpid(), temporary))
        sys.stderr.write(f"run {number}: {seen[-1]}\n")
    return seen


@contextlib.contextmanager
def server(student: Path, temporary: Path) -> Iterator[tuple[int, int]]:
    """Serve a student, whose temporary files go to `temporary`; yields the process and the port."""
    command = [*POTSTILL, "serve", str(student), "--port", "0"]
    variables = os.environ | {"TMPDIR": str(temporary)}
    told = student.parent / "server.log"  # a pipe that nobody reads would be full some day, and the server would wait
    with told.open("w") as log, subprocess.Popen(command, stderr=log, text=True, env=variables) as process:  # noqa: S603
        try:
            while not (match := re.search(r"at http://[^:]+:(\d+)", told.read_text())):
                if process.poll() is not None:
                    raise RuntimeError(f"the server has not begun: {told.read_text()}")
                time.sleep(0.1)
            yield process.pid, int(match[1])
        finally:
            process.send_signal(signal.SIGTERM)


def serve(minutes: float, student: Path, temporary: Path) -> tuple[list[dict[str, float]], int]:
    """Ask a server for a while; returns what was seen of it, and how many answers it gave."""
    seen, answers = [], 0
    until = time.monotonic() + 60 * minutes
    with server(student, temporary) as (process, port):
        next_look = 0.0
        while time.monotonic() < until:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            body = json.dumps({"texts": [f"The {answers % WORDS}th cat sat on the mat.", "A dog."]})
            connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            connection.close()
            if response.status != http.HTTPStatus.OK:
                raise RuntimeError(f"{response.status}: {content!r}")
            answers += 1
            if time.monotonic() >= next_look:
                seen.append(look(process, temporary))
                next_look = time.monotonic() + LOOK
            time.sleep(PAUSE)
    return seen, answers


def main() -> None:
    """Soak, and write down what grew."""
    parser = arguments(__doc__, "torture_soak", rounds=False, seed=False)
    parser.add_argument("--runs", type=int, default=200, help="short runs")
    parser.add_argument("--serve-minutes", type=float, default=60, help="time of serving")
    options = parser.parse_args()
    places = [tempfile.TemporaryDirectory() for _ in range(3)]
    with (
        places[0] as name,
        places[1] as mine,
        places[2] as servers,
        contextlib.chdir(name),
        ThreadPoolExecutor() as pool,
    ):
        os.environ["TMPDIR"] = tempfile.tempdir = mine  # so that nobody else's temporary files are counted
        found = []
        if options.serve_minutes:
            _, directory = small.make_run(Path(name, "served"))
            serving = pool.submit(serve, options.serve_minutes, directory / "distilled" / "seed-0", Path(servers))
        if options.runs:
            seen = runs(options.runs, Path(name, "runs"), Path(mine))
            found.append({"name": "runs", **verdict(seen), "seen": seen})
        if options.serve_minutes:
            seen, answers = serving.result()
            found.append({"name": "serving", "answers": answers, **verdict(seen), "seen": seen})
    known = {run["name"]: run for run in (read_json(options.out)["runs"] if options.out.is_file() else [])}
    every = (known | {one["name"]: one for one in found}).values()
    write_result(options.out, list(every), leaks={one["name"]: one["leaks"] for one in every})
    sys.exit(1 if any(one["leaks"] for one in found) else 0)


if __name__ == "__main__":
    main()
