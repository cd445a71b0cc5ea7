"""Let every write fail, and see that one clear message says so and that earlier files survive.

    python benchmarks/stress/faults.py

What writes is done again and again, each time in a process of its own, in a copy of a small real run. Each time one
call to the system fails: the first, the second and so on, with "no space left", "input/output error" and "read-only
file system". Writers in Rust and C++ fail likewise where Python calls them. Then, so that the system itself refuses in
the middle of a write, files may grow only to sizes that are drawn. What has to come of it: success, or an error of ours
that says what to do; no traceback; every model is whole, the old one or the new; no temporary
file is left.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
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
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from safetensors import SafetensorError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small

import potstill.store.tensors
from common import arguments, write_result
from potstill.augment.unlabelled import UnlabelledSet
from potstill.cli import main as command_line
from potstill.config import PotstillConfig, RuntimeConfig
from potstill.data import load_corpus
from potstill.errors import PotstillError
from potstill.experiment.record import TrainingRecord
from potstill.predict.directory import UNLABELLED_FILE
from potstill.report import read_summary, write_report
from potstill.store.checksums import recover, verify
from potstill.student.student import Student
from potstill.teacher.cache import CachedTeacher
from potstill.teacher.transformer import TransformerTeacher

CPU = RuntimeConfig(device="cpu", precision="32-true")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
WRITES = set("wax+")
FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LEFT = re.compile(r"\..+\.[a-z0-9_]{8}|\.tmp[A-Za-z0-9]{6}|\.saving-.+")
"""What our temporary files and directories are called."""
LARGEST = 1_200_000
"""Bytes of about the largest file that the small run writes."""
TEACHER, STUDENT, UNLABELLED = "run/teacher/seed-0", "run/distilled/seed-0", "run/unlabelled"
SYSTEM_CALLS = ("fsync", "replace", "rename", "mkdir", "chmod", "truncate", "posix_fallocate")

Operation = Callable[[Path], Callable[[], object]]
"""Prepares in a copy of the run (the directory that holds `run`, `cache` and `backbone`) and returns what writes."""


def operations(config: PotstillConfig) -> dict[str, Operation]:
    """Return what writes, by name."""
    return {
        "teacher": _save_teacher,
        "student": lambda work: partial(_new_student(config).save, work / STUDENT),
        "record": lambda work: partial(TrainingRecord.load(work / STUDENT).save, work / STUDENT),
        "unlabelled set": lambda work: partial(
            UnlabelledSet.load(work / UNLABELLED).save, work / UNLABELLED / UNLABELLED_FILE
        ),
        "report": lambda work: partial(write_report, read_summary(work / "run"), work / "run"),
        "caches": partial(_fill_caches, config),
        "predict": _command("predict", STUDENT, "texts.txt", "--out", "answers.jsonl"),
        "export": _command("export", "run", "--out", "exported"),
        "merge": _command("merge", TEACHER, "--out", "merged"),
        "data": _command("data", "--config", "small.yaml", "--write", "parts"),
        "run": _command("run", "--config", "small.yaml", "--out", "again"),
    }


def _save_teacher(work: Path) -> Callable[[], object]:
    teacher = TransformerTeacher.load(work / TEACHER, CPU)
    with torch.no_grad():
        for parameter in teacher.classifier.parameters():
            parameter.add_(parameter.requires_grad)
    return partial(teacher.save, work / TEACHER)


def _new_student(config: PotstillConfig) -> Student:
    corpus = load_corpus(config.data)
    return Student.create(config.student, corpus, config.data.max_length, 7, texts=corpus.train.all_texts)


def _fill_caches(config: PotstillConfig, work: Path) -> Callable[[], object]:
    os.environ["POTSTILL_CACHE"] = str(work / "new-cache")
    corpus, teacher = load_corpus(config.data), TransformerTeacher.load(work / TEACHER, CPU)
    return lambda: (teacher.featurise(corpus.train), CachedTeacher(teacher).logits(corpus.validation))


def _command(*words: str) -> Operation:
    """Run the command line in the copy; its own message and status are what a user sees."""
    return lambda _: partial(command_line, list(words))


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
    kept += [(potstill.store.tensors, "save_file", potstill.store.tensors.save_file)]
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
            opens = _os_opens_to_write if place is os else _opens_to_write
            counts = opens if name == "open" else lambda *arguments, **options: True
            setattr(place, name, failing(call, counts))
        potstill.store.tensors.save_file = rust
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


def trial(origin: Path, config: PotstillConfig, title: str, fault: Fault) -> dict[str, Any]:
    """Do an operation with a fault, in a process of its own and a copy of the run; returns what came of it."""
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(1, get_context("fork")) as apart:
        work = Path(name, "work")
        shutil.copytree(origin, work)
        try:
            return apart.submit(_attempt, work, config, title, fault).result()
        except BrokenProcessPool:
            return {"result": "failed", "why": "the process has died", "calls": 0}


def _attempt(work: Path, config: PotstillConfig, title: str, fault: Fault) -> dict[str, Any]:
    global FAULT
    FAULT = fault
    os.environ["POTSTILL_CACHE"] = str(work / "cache")
    os.environ["TMPDIR"] = tempfile.tempdir = str(work.parent)
    os.chdir(work)
    told, shown = io.StringIO(), io.TextIOWrapper(io.BytesIO())
    problem, result = "", "done"
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(shown):
        try:
            write = operations(config)[title](work)
            with injected():
                write()
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
    """Check the files from before; returns what is wrong with them."""
    try:
        for file in work.glob("run/*/seed-*/checksums.json"):  # not a report's: the command writes it again
            verify(file.parent)
        UnlabelledSet.load(work / UNLABELLED)
    except PotstillError as error:
        return f"not whole any more: {error}"
    for place in work.rglob(".saving-*"):
        recover(place.parent)  # as the next reader does: a save that was complete when the system refused counts
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
    parser = arguments(__doc__, "stress_faults", rounds=False)
    parser.add_argument("--most", type=int, default=150, help="failing calls tried of each operation at most")
    parser.add_argument("--sizes", type=int, default=20, help="file sizes tried of each operation")
    options = parser.parse_args()
    draw = random.Random(options.seed)  # noqa: S311 — no secret
    torch.set_num_threads(1)
    rows, failures = [], []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        work = Path(name, "work")
        config, _ = small.make_run(work)
        config.save(work / "small.yaml")
        (work / "texts.txt").write_text("\n".join(f"The {n}th cat sat." for n in range(300)), encoding="utf-8")
        for title in operations(config):
            uninterrupted = trial(work, config, title, Fault())
            if uninterrupted["result"] != "done":
                raise RuntimeError(f"{title}: {uninterrupted}")
            counts: Counter[str] = Counter()
            for how, fault in faults(uninterrupted["calls"], options.most, options.sizes, draw):
                found = trial(work, config, title, fault)
                counts[found["result"]] += 1
                if found["result"] == "failed":
                    failures.append({"operation": title, "fault": how, "why": found["why"][-1500:]})
                    sys.stderr.write(f"{failures[-1]}\n")
            rows.append({"name": title, "calls": uninterrupted["calls"], "faults": counts.total(), **counts})
            sys.stderr.write(f"{rows[-1]}\n")
    write_result(options.out, rows, failures=failures)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
