"""Many short runs in one process, and an hour of serving: memory, open files and temporary files must not grow.

    python benchmarks/stress/soak.py --runs 200 --serve-minutes 60
    python benchmarks/stress/soak.py --runs 0 --serve-minutes 60     # results of runs stay in the result file

A run is the whole of `potstill.run` on a small model. Meanwhile `potstill serve`, in a process of its own, is asked a
few times a second over HTTP. Growth is computed from the second half of what was seen, since first calls fill caches:
the slope of a straight line through it (Theil-Sen), times the time that it spans.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy.stats import theilslopes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small

from common import arguments, known_runs, write_result
from load import Server
from potstill.experiment.run import run

MEMORY_GROWTH = 0.02
"""Growth of the memory, as a share of it, that still counts as none: the allocator's own ups and downs."""
PAUSE = 0.2
"""Seconds between two requests: light load, as most servers have it most of the time."""
LOOK = 5.0
"""Seconds between two looks at the server."""
WORDS = 1000
"""Different words at the place where texts differ: a classifier remembers words, as many as a bound allows."""


def look(pid: int, temporary: Path) -> dict[str, float]:
    """Look at a process: resident memory in MiB, open files, threads; and how many temporary files there are."""
    process = psutil.Process(pid)
    return {
        "rss_mb": process.memory_info().rss / 2**20,
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "temporary": sum(1 for _ in temporary.rglob("*")),
    }


def verdict(seen: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return where each value began and ended, and its growth over the second half; `leaks` names what grew."""
    half = seen[len(seen) // 2 :]
    limits = {"rss_mb": MEMORY_GROWTH * half[0]["rss_mb"], "files": 0.5, "threads": 0.5, "temporary": 0.5}
    found: dict[str, Any] = {}
    for name in limits:
        values = np.array([one[name] for one in half])
        growth = float(theilslopes(values)[0]) * (len(values) - 1) if len(values) > 1 else 0.0
        found[name] = {"first": seen[0][name], "last": seen[-1][name], "growth": growth}
    leaks = [name for name, most in limits.items() if found[name]["growth"] > most]
    return found | {"looks": len(seen), "leaks": leaks}


def runs(count: int, work: Path, temporary: Path) -> list[dict[str, float]]:
    """Do short runs one after the other; look at the process after each, when the run's directory is removed."""
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


def serve(minutes: float, student: Path, temporary: Path) -> tuple[list[dict[str, float]], int]:
    """Ask a server for a while; returns what was seen of it, and how many answers it gave."""
    seen, answers = [], 0
    until, next_look = time.monotonic() + 60 * minutes, 0.0
    with Server(student, student.parent / "server.log", temporary=temporary) as server:
        while time.monotonic() < until:
            if not server.answers(f"The {answers % WORDS}th cat sat on the mat."):
                raise RuntimeError("a request was not answered")
            answers += 1
            if time.monotonic() >= next_look:
                seen.append(look(server.process.pid, temporary))
                next_look = time.monotonic() + LOOK
            time.sleep(PAUSE)
    return seen, answers


def main() -> None:
    """Soak, and write down what grew."""
    parser = arguments(__doc__, "stress_soak", rounds=False, seed=False)
    parser.add_argument("--runs", type=int, default=200, help="short runs")
    parser.add_argument("--serve-minutes", type=float, default=60, help="time of serving")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name), ThreadPoolExecutor() as pool:
        mine, servers = Path(name, "mine"), Path(name, "servers")
        mine.mkdir()
        servers.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(mine)  # so that only our temporary files are counted
        if options.serve_minutes:
            _, directory = small.make_run(Path(name, "served"))
            serving = pool.submit(serve, options.serve_minutes, directory / "distilled" / "seed-0", servers)
        if options.runs:
            seen = runs(options.runs, Path(name, "runs"), mine)
            found.append({"name": "runs", **verdict(seen), "seen": seen})
        if options.serve_minutes:
            seen, answers = serving.result()
            found.append({"name": "serving", "answers": answers, **verdict(seen), "seen": seen})
    every = (known_runs(options.out) | {one["name"]: one for one in found}).values()
    write_result(options.out, every, leaks={one["name"]: one["leaks"] for one in every})
    sys.exit(1 if any(one["leaks"] for one in found) else 0)


if __name__ == "__main__":
    main()
