"""Kill `potstill run` at random moments, resume it, and compare what it ends with to an uninterrupted run, bit by bit.

    python benchmarks/stress/kills.py --kills 50

The run is that of `small.py`. Every trial has a directory and a cache of its own. It is ended once to three times, most
often by SIGKILL, else by SIGTERM or Ctrl-C, each at a moment drawn from the whole time that the rest takes; then it may
end. All weights, histories, predictions, the unlabelled set and the summary have to be those of the uninterrupted run,
without what tells of time, and all checksums have to fit. Trials run side by side; what each draws does not depend on
how many.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small
from run_snapshot import contents, differences, verify_all

from common import POTSTILL, arguments, write_result
from potstill.config import with_settings
from potstill.errors import PotstillError
from potstill.report import is_reported

ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
"""What ends a run, and the status that it then has."""
SHARES = {signal.SIGKILL: 0.7, signal.SIGTERM: 0.15, signal.SIGINT: 0.15}
MOST_ENDS = 3
SETTINGS = {
    **{"teacher.training.epochs": 3, "student.training.epochs": 4, "student.pretraining.epochs": 2},
    **{"augment.sampled": 20, "augment.perturbed": 100},
    "runtime.checkpoint_seconds": 0.1,  # so that moments before, in and after a checkpoint's writing are hit
}


@dataclass(frozen=True)
class Place:
    """Where a run has its directory and its cache (in `root`), and its configuration file."""

    root: Path
    config: Path

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.root / "run"

    def start(self) -> tuple[subprocess.Popen[str], float]:
        """Start or resume the run; wait until packages are loaded and work begins; return the moment too."""
        command = [*POTSTILL, "run", "--config", str(self.config), "--out", str(self.run)]
        variables = os.environ | {"POTSTILL_CACHE": str(self.root / "cache"), "OMP_NUM_THREADS": "1"}
        self.root.mkdir(exist_ok=True)
        with (self.root / "log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=variables, text=True)  # noqa: S603
        lock = self.run / "potstill.lock"
        while process.poll() is None and not (lock.is_file() and lock.read_text().strip() == str(process.pid)):
            time.sleep(0.01)
        return process, time.perf_counter()

    def finish(self) -> float:
        """Start or resume the run and let it end; return the seconds of work, without loading packages."""
        process, started = self.start()
        self.expect(process.wait(), 0)
        return time.perf_counter() - started

    def expect(self, status: int, wanted: int) -> None:
        """Raise `FailedError`, with what the run wrote last, where the status is not as wanted."""
        if status != wanted:
            raise FailedError(f"expected status {wanted}, found {status}\n{(self.root / 'log').read_text()[-2000:]}")


class FailedError(Exception):
    """A run ended with a status that it should not have."""


def end_and_resume(place: Place, seconds: float, draw: random.Random, ends: list[dict[str, Any]]) -> None:
    """End a run once or several times at moments within `seconds`, then let it end; note in `ends` what came when."""
    wanted, left = draw.randint(1, MOST_ENDS), seconds
    while len(ends) < wanted:
        (number,) = draw.choices(list(SHARES), list(SHARES.values()))
        after = draw.uniform(0.0, left)
        process, started = place.start()
        try:
            process.wait(max(0.0, started + after - time.perf_counter()))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        status = process.wait()
        if status == 0 or (number != signal.SIGKILL and is_reported(place.run)):  # it was finished before it was hit
            if ends:
                return
            shutil.rmtree(place.root)
            continue
        place.expect(status, ENDS[number])
        ends.append({"signal": signal.Signals(number).name, "after": round(after, 3)})
        left = max(0.2 * seconds, left - after)
    place.finish()


def trial(place: Place, seconds: float, draw: random.Random, expected: dict[str, Any]) -> dict[str, Any]:
    """Make a trial and compare the run with the `expected` contents; if all is well, the run is removed."""
    made: dict[str, Any] = {"ends": [], "identical": False, "differing": [], "files": len(expected)}
    try:
        end_and_resume(place, seconds, draw, made["ends"])
        made["differing"] = differences(contents(place.run), expected)
        verify_all(place.run)
        made["identical"] = not made["differing"]
    except (FailedError, PotstillError, OSError, ValueError) as error:
        made["error"] = str(error)
    if made["identical"]:
        shutil.rmtree(place.root)
    return made


def main() -> None:
    """Make the uninterrupted run, then all trials, and write the result."""
    parser = arguments(__doc__, "stress_kills", rounds=False)
    parser.add_argument("--kills", type=int, default=50, help="runs that are ended at random moments")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trials side by side  [default: cores]")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="potstill-kills-"))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the runs inherit it, also where this script ignores it
    config = root / "stress.yaml"
    with_settings(small.configuration(small.make_backbone(root / "backbone")), SETTINGS).save(config)
    whole = Place(root / "uninterrupted", config)
    seconds = whole.finish()
    expected = contents(whole.run)
    verify_all(whole.run)

    def numbered(number: int) -> dict[str, Any]:
        draw = random.Random(f"{args.seed} {number}")  # noqa: S311 — no secret
        made = {"trial": number, **trial(Place(root / f"trial-{number}", config), seconds, draw, expected)}
        sys.stderr.write(f"{made}\n")
        return made | {"uninterrupted_seconds": round(seconds, 2)}

    with ThreadPoolExecutor(args.jobs) as pool:  # each waits for processes of its own
        runs = list(pool.map(numbered, range(args.kills)))
    identical = sum(run["identical"] for run in runs)
    ends = Counter(end["signal"] for run in runs for end in run["ends"])
    write_result(args.out, runs, identical=identical, trials=len(runs), ends=dict(ends))
    if identical < len(runs):
        sys.exit(f"{len(runs) - identical} of {len(runs)} runs ended otherwise; they are in {root}")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
