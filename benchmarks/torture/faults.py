"""Let every write fail, and see that it is told in one clear message and that what was there before still stands.

    python benchmarks/torture/faults.py

What writes is done again and again, each time in a process of its own, in a copy of a small real run. Each time one
call to the system fails: the first, the second and so on, with "no space left", "input/output error" and "read-only
file system". Writers in Rust and C++ fail likewise where Python calls them. Then, so that the system itself refuses in
the middle of a write, files may grow only to sizes that are drawn. What has to come of it: success, or an error of ours
that says what to do; no traceback; every model that stood there before is whole, the old one or the new; no temporary
file is left.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from safetensors import SafetensorError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small

import potstill.tensors
from common import arguments, write_result
from potstill.artifacts import mapped_array
from potstill.cli import main as command_line
from potstill.config import RuntimeConfig
from potstill.data import load_corpus
from potstill.distillation.teacher_logits import judgement
from potstill.errors import PotstillError
from potstill.models import TrainingRecord
from potstill.report import read_summary, write_report
from potstill.runtime.directory import TRANSFER_FILE
from potstill.runtime.seal import settle, verify
from potstill.student.model import Student
from potstill.teacher import Teacher
from potstill.transfer.sets import TransferSet

CPU = RuntimeConfig(device="cpu", precision="32-true")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
WRITES = set("wax+")
FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LEFT = re.compile(r"\..+\.[a-z0-9_]{8}|\.tmp[A-Za-z0-9]{6}|\.saving-.+")
"""What our temporary files and directories are called."""
LARGEST = 400_000
"""Bytes of about the largest file that the small run writes."""
SYSTEM_CALLS = ("fsync", "replace", "rename", "mkdir", "chmod", "truncate", "posix_fallocate")

Operation = Callable[[Path], object]
"""Writes something into a copy of the run; gets the directory that holds `run`, `cache` and `backbone`."""


def operations(config_file: str) -> dict[str, Operation]:
    """Return what writes, by name."""
    return {
        "teacher": _save_teacher,
        "student": _save_student,
        "record": _save_record,
        "transfer set": _save_transfer_set,
        "report": _write_report,
        "caches": _fill_caches,
        "predict": lambda work: _command(
            "predict", _student(work), work / "texts.txt", "--out", work / "answers.jsonl"
        ),
        "export": lambda work: _command("export", work / "run", "--out", work / "exported"),
        "merge": lambda work: _command("merge", work / "run" / "teacher" / "seed-0", "--out", work / "merged"),
        "data": lambda work: _command("data", "--config", work / config_file, "--write", work / "parts"),
        "run": lambda work: _command("run", "--config", work / config_file, "--out", work / "again"),
    }


def _student(work: Path) -> Path:
    return work / "run" / "distilled" / "seed-0"


def _save_teacher(work: Path) -> None:
    directory = work / "run" / "teacher" / "seed-0"
    teacher = Teacher.load(directory, CPU)
    with torch.no_grad():
        for parameter in teacher.classifier.parameters():
            parameter.add_(parameter.requires_grad)
    with injected():
        teacher.save(directory)


def _save_student(work: Path) -> None:
    config = small.configuration(work / "backbone")
    student = Student.create(config.student, load_corpus(config.data), config.data.max_tokens, "", 7)
    with injected():
        student.save(_student(work))


def _save_record(work: Path) -> None:
    with injected():
        TrainingRecord.load(_student(work)).save(_student(work))


def _save_transfer_set(work: Path) -> None:
    directory = work / "run" / "transfer"
    with injected():
        TransferSet.load(directory).save(directory / TRANSFER_FILE)


def _write_report(work: Path) -> None:
    summary = read_summary(work / "run")
    with injected():
        write_report(summary, work / "run")


def _fill_caches(work: Path) -> None:
    os.environ["POTSTILL_CACHE"] = str(work / "new-cache")
    corpus = load_corpus(small.configuration(work / "backbone").data)
    teacher = Teacher.load(work / "run" / "teacher" / "seed-0", CPU)
    with injected():
        teacher.tuning_set(corpus.train)
        judgement([teacher], corpus.selection)
        mapped_array(work / "new-cache" / "mapped", (3, 4), np.float32, lambda array: array.fill(1))


def _command(*arguments: object) -> None:
    """Run the command line; its own message and status are what a user sees."""
    with injected():
        command_line([str(argument) for argument in arguments])


class Fault:
    """Counts the calls that write, and lets one of them fail."""

    def __init__(self, at: int | None = None, number: int = 0, largest: int | None = None) -> None:
        self.at, self.number, self.largest = at, number, largest
        self.calls = 0

    def step(self, name: object) -> None:
        """Count a call; fail if it is the one."""
        self.calls += 1
        if self.calls == self.at:
            raise OSError(self.number, os.strerror(self.number), None if isinstance(name, int) else str(name))


FAULT = Fault()
"""This process's."""


@contextlib.contextmanager
def injected() -> Iterator[None]:
    """Put the fault in the way of everything that writes."""
    kept = [(os, name, getattr(os, name)) for name in (*SYSTEM_CALLS, "open")]
    kept += [(builtins, "open", builtins.open), (io, "open", io.open)]
    kept += [(potstill.tensors, "save_file", potstill.tensors.save_file)]
    kept += [(pyarrow.parquet, "write_table", pyarrow.parquet.write_table)]

    def failing(call: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def wrapped(first: Any, *arguments: Any, **options: Any) -> Any:
            if counts(first, *arguments, **options):
                FAULT.step(first)
            return call(first, *arguments, **options)

        return wrapped

    def rust(*arguments: Any, **options: Any) -> Any:
        try:
            FAULT.step(arguments[1])
        except OSError as error:
            raise SafetensorError(f"Error while serializing: I/O error: {error.strerror}") from None
        return kept[-2][2](*arguments, **options)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for place, name, call in kept:
            counts = {"open": _opens_to_write}.get(name, lambda *arguments, **options: True)
            if place is os and name == "open":
                counts = _os_opens_to_write
            setattr(place, name, failing(call, counts))
        potstill.tensors.save_file = rust
        if FAULT.largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (FAULT.largest, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for place, name, call in kept:
            setattr(place, name, call)


def _opens_to_write(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> bool:
    return bool(WRITES & set(mode)) and _is_ours(file)


def _os_opens_to_write(path: Any, flags: int, *arguments: Any, **options: Any) -> bool:
    return bool(flags & FLAGS) and _is_ours(path)


def _is_ours(file: Any) -> bool:
    """Say whether a file is one on the disk: not a terminal, a pipe, or what the interpreter compiles."""
    return not isinstance(file, int) and not str(file).startswith(("/dev", "/proc")) and "__pycache__" not in str(file)


def trial(origin: Path, operation: Operation, fault: Fault) -> dict[str, Any]:
    """Do an operation with a fault, in a process of its own and a copy of the run; returns what came of it."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name, "work")
        shutil.copytree(origin, work)
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            os.close(reading)
            try:
                result = _attempt(work, operation, fault)
                os.write(writing, json.dumps(result).encode()[:60_000])  # what a pipe takes without a reader
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            content = pipe.read()
        os.waitpid(child, 0)
        if not content:
            return {"result": "failed", "why": "the process has died", "calls": 0}
        found: dict[str, Any] = json.loads(content)
    return found


def _attempt(work: Path, operation: Operation, fault: Fault) -> dict[str, Any]:
    global FAULT
    FAULT = fault
    os.environ["POTSTILL_CACHE"] = str(work / "cache")
    os.environ["TMPDIR"] = tempfile.tempdir = str(work.parent)
    os.chdir(work)
    told, shown = io.StringIO(), io.TextIOWrapper(io.BytesIO())
    problem, result = "", "done"
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(shown):
        try:
            operation(work)
        except PotstillError as error:
            result, message = "refused", str(error)
        except SystemExit as exit_:
            result, message = ("refused" if exit_.code else "done"), told.getvalue()
        except BaseException:
            problem = traceback.format_exc()
    if result == "refused" and ("what to do" not in message or "Traceback" in message):
        problem = f"no clear message: {message}"
    problem = problem or _damage(work)
    return {"result": "failed" if problem else result, "why": problem, "calls": FAULT.calls}


def _damage(work: Path) -> str:
    """Look at what stood there before; returns what is wrong with it."""
    for seal in (*work.glob("run/*/seed-*/checksums.json"), work / "run" / "checksums.json"):
        try:
            verify(seal.parent)
        except PotstillError as error:
            if seal.parent.name != "run":  # a report is several files, and is written again with the command
                return f"not whole any more: {error}"
    try:
        TransferSet.load(work / "run" / "transfer")
    except PotstillError as error:
        return f"not whole any more: {error}"
    for place in work.rglob(".saving-*"):
        settle(place.parent)  # as whoever reads there next: a save that was complete when the system refused counts
    left = [path for path in work.rglob(".*") if LEFT.fullmatch(path.name)]
    # Where its removal was what the system refused, an empty directory stays until the next save removes it.
    named = [str(path.relative_to(work)) for path in left if not path.is_dir() or any(path.iterdir())]
    return f"left behind: {named}" if named else ""


def faults(calls: int, most: int, sizes: int, draw: random.Random) -> Iterator[tuple[str, Fault]]:
    """Yield every fault of an operation of so many calls, or `most` of them drawn, and limits of the file size."""
    every = [(at, number) for at in range(1, calls + 1) for number in ERRORS]
    for at, number in every if len(every) <= most else draw.sample(every, most):
        yield f"call {at}: {errno.errorcode[number]}", Fault(at, number)
    for _ in range(sizes):
        largest = int(LARGEST ** draw.random())
        yield f"files of at most {largest} bytes", Fault(largest=largest)


def main() -> None:
    """Let everything fail that writes, and write down what happened."""
    parser = arguments(__doc__, "torture_faults", rounds=False)
    parser.add_argument("--most", type=int, default=150, help="failing calls tried of each operation at most")
    parser.add_argument("--sizes", type=int, default=20, help="file sizes tried of each operation")
    parser.add_argument("--operations", nargs="+", help="only these")
    options = parser.parse_args()
    draw = random.Random(options.seed)  # noqa: S311 — no secret
    torch.set_num_threads(1)
    rows, failures = [], []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        work = Path(name, "work")
        config, _ = small.make_run(work)
        config.save(work / "small.yaml")
        (work / "texts.txt").write_text("\n".join(f"The {n}th cat sat." for n in range(300)), encoding="utf-8")
        chosen = operations("small.yaml")
        for title in options.operations or chosen:
            undisturbed = trial(work, chosen[title], Fault())
            if undisturbed["result"] != "done":
                raise RuntimeError(f"{title}: {undisturbed}")
            counts: Counter[str] = Counter()
            for how, fault in faults(undisturbed["calls"], options.most, options.sizes, draw):
                found = trial(work, chosen[title], fault)
                counts[found["result"]] += 1
                if found["result"] == "failed":
                    failures.append({"operation": title, "fault": how, "why": found["why"][-1500:]})
                    sys.stderr.write(f"{failures[-1]}\n")
            rows.append({"name": title, "calls": undisturbed["calls"], "faults": counts.total(), **counts})
            sys.stderr.write(f"{rows[-1]}\n")
    write_result(options.out, rows, failures=failures)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
