"""`potstill predict` on a million lines: killed half way, resumed, and every answer looked at.

    python benchmarks/predict_stream.py --student runs/NAME

Lines are generated: each says its own number, so that an answer which is lost, repeated or out of its place is found.
The command is killed (SIGKILL, no chance to tidy up) when half is answered, then called again. Resident memory is
sampled: it must not grow with the lines. Then, in turns, the command and the library answer some of the lines on one
thread; their speeds by processor time are compared.

What this needs beside Potstill: pip install 'potstill[benchmarks]'
"""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common import POTSTILL, Run, arguments, target, write_result
from load import SAMPLED, peaks, sampled
from potstill.predict import Classifier
from potstill.predict.directory import find_student
from potstill.predict.stream import CHUNK_TEXTS

ROUNDS = 3
WORDS = ["the", "a", "cat", "dog", "that", "sat", "grass", "naïve", "漢字", "🙂", "and", "not", "never"]
RATIO = 0.9
"""Texts a processor second of the command over those of the library, at least."""
GROWTH = 1.1
"""Memory in the last third over that in the first, at most; what is left is the allocator's."""


def main() -> None:
    """Generate, predict, kill, go on, check, write the result."""
    parser = arguments(__doc__, rounds=False, seed=False)
    parser.add_argument("--student", type=Path, required=True, help="an export, a student or a run")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--compared", type=int, default=40_000, help="lines that the library answers, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        source, answers = Path(work) / "lines.txt", Path(work) / "answers.jsonl"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(f"{line(number)}\n" for number in range(1, args.lines + 1))
        command = [*POTSTILL, "predict", str(find_student(args.student)), str(source), "--out", str(answers)]
        note = answers.with_name(f"{answers.name}.part.json")
        runs = [_watch("killed", command, note, args.lines // 2), _watch("resumed", command, note, None)]
        found = check(answers, args.lines)
        ratios = [_ratio(find_student(args.student), Path(work), args.compared) for _ in range(ROUNDS)]
    targets = [
        *_targets(runs, found, args.lines),
        target("speed over the library's", RATIO, median(ratios), "at least"),
    ]
    write_result(args.out, runs, lines=args.lines, compared=args.compared, ratios=ratios, check=found, targets=targets)


def line(number: int) -> str:
    """Make a text of 2 to 20 words that no other line has."""
    generator = random.Random(number)  # noqa: S311 - nothing secret
    return " ".join([str(number), *generator.choices(WORDS, k=generator.randint(1, 19))])


def check(answers: Path, lines: int) -> dict[str, int]:
    """Count the answers, those in their place with their own text, and those that are no whole line."""
    counted, right, broken = 0, 0, 0
    with answers.open(encoding="utf-8") as file:
        for number, content in enumerate(file, start=1):
            counted += 1
            try:
                answer = json.loads(content)
            except ValueError:
                broken += 1
                continue
            right += answer["line"] == number and answer["text"] == line(number)
    return {"expected": lines, "answers": counted, "right": right, "broken": broken}


def _ratio(student: Path, work: Path, lines: int) -> float:
    """Compare the command's texts a processor second, start included, with the library's."""
    texts = [line(number) for number in range(1, lines + 1)]
    (work / "compared.txt").write_text("\n".join(texts), encoding="utf-8")
    classifier = Classifier.load(student, threads=1)
    started = time.process_time()
    for start in range(0, lines, CHUNK_TEXTS):
        classifier.predict_proba(texts[start : start + CHUNK_TEXTS])
    library = time.process_time() - started
    command = [*POTSTILL, "predict", str(student), str(work / "compared.txt"), "--threads", "1"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return library / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _watch(name: str, command: Sequence[str], note: Path, until: int | None) -> Run:
    """Run the command, sample its memory, and kill it when `until` lines are answered."""
    begun = last = _answered(note)
    started = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603
    with sampled(process.pid) as memory:
        while process.poll() is None:
            last = max(last, _answered(note))
            if until is not None and last >= until:
                process.kill()
                break
            time.sleep(SAMPLED)
    _, errors = process.communicate()
    if until is None and process.returncode:
        sys.exit(f"expected the command to end well, found status {process.returncode}:\n{errors}")
    if until is not None and process.returncode != -signal.SIGKILL:
        sys.exit(f"expected to kill the command when {until} lines were answered; it ended before:\n{errors}")
    return {
        "name": name,
        "seconds": time.monotonic() - started,
        "answered_before": begun,
        "answered_at_least": last,
        **peaks(memory),
    }


def _answered(note: Path) -> int:
    """Read how far the command says that it has come."""
    try:
        return int(json.loads(note.read_text(encoding="utf-8"))["answered"])
    except FileNotFoundError:
        return 0


def _targets(runs: Sequence[Run], found: dict[str, int], lines: int) -> list[dict[str, Any]]:
    """Compare the result with what is wanted."""
    growth = max(run["rss_mb_late"] / max(run["rss_mb_early"], 1e-9) for run in runs)
    return [
        target("answers", lines, found["answers"]),
        target("answers in their place, to their own text", lines, found["right"]),
        target("answered before the kill", lines // 2, runs[1]["answered_before"], "at least"),
        target("growth of memory", GROWTH, growth, "at most"),
    ]


if __name__ == "__main__":
    main()
