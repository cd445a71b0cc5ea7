"""Fuzz every parser with atheris, which keeps the inputs that reach new code and changes them further.

    python benchmarks/stress/fuzz.py --seconds 600
    python benchmarks/stress/fuzz.py --seconds 20 --targets config query

Each target (see targets.py) has a process of its own; results of targets that are not named stay in the result file. A
finding is an exception that is none of ours, a hang of more than ten seconds, or more than 2 GB of memory. Its input is
kept in tests/fuzz_inputs/, where a test repeats it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import ROOT, arguments, known_runs, write_result

INPUTS = ROOT / "tests" / "fuzz_inputs"
HANG = 10
"""Seconds that one input may take; the longest that was seen takes a fraction of one."""
MEMORY = 2048
"""MiB of a fuzzing process, torch included."""
LONGEST = 4096
"""Bytes of an input. What is special about longer ones are the limits, which have tests of their own."""
ADDRESSES = 64 << 30
"""Bytes of addresses: what asks for more gets a MemoryError. With 12 GiB a finding was not written down."""

_FUZZ = """
import resource
import sys
import atheris
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]),) * 2)
sys.path[:0] = [sys.argv[1]]
with atheris.instrument_imports(include=["potstill", "yaml"], enable_loader_override=False):
    import targets
name = sys.argv[2]
atheris.Setup([sys.argv[0], *sys.argv[4:]], lambda data: targets.attempt(name, data))
atheris.Fuzz()
"""


def fuzz(name: str, seconds: int, seed: int) -> dict[str, Any]:
    """Fuzz one target for a while; returns what came of it."""
    import targets

    with tempfile.TemporaryDirectory() as directory:
        corpus, found = Path(directory, "corpus"), Path(directory, "found")
        corpus.mkdir()
        found.mkdir()
        known = [path.read_bytes() for path in sorted((INPUTS / name).glob("*"))]
        for number, content in enumerate([*targets.seeds(name), *known]):
            (corpus / str(number)).write_bytes(content)
        flags = {
            **{"max_total_time": seconds, "seed": seed + 1, "timeout": HANG, "rss_limit_mb": MEMORY},
            **{"max_len": LONGEST, "artifact_prefix": f"{found}/", "print_final_stats": 1},
        }
        options = [f"-{key}={value}" for key, value in flags.items()]
        command = [sys.executable, "-c", _FUZZ, Path(__file__).parent, name, str(ADDRESSES), str(corpus), *options]
        variables = os.environ | {"TMPDIR": directory}  # a fuzzing process that ends tidies nothing
        result = subprocess.run(  # noqa: S603
            command, env=variables, capture_output=True, text=True, errors="replace", check=False
        )
        inputs = []
        for path in sorted(found.iterdir()):
            (INPUTS / name).mkdir(parents=True, exist_ok=True)
            inputs.append(shutil.copy(path, INPUTS / name / path.name.partition("-")[2][:16]))
        executed = re.findall(r"number_of_executed_units:\s*(\d+)", result.stderr)
        run = {
            "name": name,
            "seconds": seconds,
            "executions": int(executed[-1]) if executed else None,
            "findings": [str(Path(path).relative_to(ROOT)) for path in inputs],
        }
        if result.returncode:
            run["error"] = f"status {result.returncode}: {result.stderr[-3000:]}"
    return run


def main() -> None:
    """Fuzz all targets, or those that are named."""
    import targets

    parser = arguments(__doc__, "stress_fuzz", rounds=False)
    parser.add_argument("--seconds", type=int, default=600, help="time of each target")
    parser.add_argument("--targets", nargs="+", default=list(targets.TARGETS), choices=list(targets.TARGETS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at a time")
    options = parser.parse_args()
    runs = known_runs(options.out)
    with ThreadPoolExecutor(options.jobs) as pool:
        for run in pool.map(lambda name: fuzz(name, options.seconds, options.seed), options.targets):
            runs[run["name"]] = run
            sys.stderr.write(f"{run}\n")
    write_result(options.out, [runs[name] for name in targets.TARGETS if name in runs])
    sys.exit(1 if any("error" in run for run in runs.values()) else 0)


if __name__ == "__main__":
    main()
