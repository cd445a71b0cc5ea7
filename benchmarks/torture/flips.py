"""Damage every file of a run, its models and its caches, and see that no reader gives a wrong answer or a traceback.

    python benchmarks/torture/flips.py --flips 2000

A small real run is made on the spot. Each time a file is drawn, and damaged in one of these ways: a bit flipped, a byte
changed, cut short, lengthened, 64 bytes zeroed, taken from its sibling of another seed, removed. Then whatever reads
that file reads it. What may happen: it is refused by an error of ours that names the file; it is made again (caches);
or every reader gives exactly the answer of before. Anything else is a failure, listed with what repeats it.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small

from common import arguments, write_result
from potstill.config import PotstillConfig, RuntimeConfig
from potstill.data import load_corpus
from potstill.distillation.hidden import with_hidden_states
from potstill.distillation.teacher_logits import judgement
from potstill.errors import PotstillError
from potstill.models import TrainingRecord
from potstill.report import read_summary
from potstill.runtime import Classifier
from potstill.runtime.directory import find_student
from potstill.runtime.seal import verify
from potstill.student.model import Student
from potstill.student.saved import load_network
from potstill.teacher import Teacher
from potstill.transfer.sets import TransferSet

CPU = RuntimeConfig(device="cpu", precision="32-true")
TEXTS = ["The cat sat on the mat.", "Mat the on sat cat.", "", "unseen wörds 漢字 " * 9]
ZEROED = 64

Reader = Callable[[], Any]
"""Reads files and returns what came of it, comparable with ==."""


class Readers:
    """What reads each file of the run, and what it gave when nothing was damaged."""

    def __init__(self, config: PotstillConfig, run: Path, cache: Path) -> None:
        self._run, self._cache = run, cache
        self._corpus = load_corpus(config.data)
        self._teachers = [Teacher.load(run / "teacher" / f"seed-{seed}", CPU) for seed in config.teacher.seeds]
        self._transfer = TransferSet.load(run / "transfer").examples
        make = partial(Student.create, config.student, self._corpus, config.data.max_tokens, "", 0)
        self._students = make(), make(more_texts=self._transfer.all_texts)
        self._known: dict[tuple[str, Path], Any] = {}

    def of(self, file: Path) -> Iterator[tuple[str, Reader]]:
        """Yield the readers of a file, by name."""
        directory = file.parent
        if file.is_relative_to(self._cache):
            yield "caches", self._caches
            return
        if directory == self._run:
            yield "summary", lambda: read_summary(directory).to_json()
        elif directory.parent.name == "teacher":
            yield "teacher", lambda: Teacher.load(directory, CPU).logits(self._examples, cached=False).tolist()
            yield "record", lambda: vars(TrainingRecord.load(directory))
        elif directory.parent.name in ("distilled", "baseline"):
            yield "student", lambda: Classifier.load(directory, threads=1).predict_proba(TEXTS).tolist()
            yield "network", lambda: {name: p.tolist() for name, p in load_network(directory).state_dict().items()}
            yield "record", lambda: vars(TrainingRecord.load(directory))
            yield "choice", lambda: find_student(directory.parent)
        elif directory.name == "transfer":
            yield "transfer", lambda: _content(TransferSet.load(directory))
            return
        else:
            return  # plots: nobody reads them but people
        yield "seal", lambda: sorted(verify(directory))

    @property
    def _examples(self) -> Any:
        return self._corpus.selection

    def _caches(self) -> Any:
        """Go through everything that is kept in the cache, as a training does."""
        corpus, joined = self._corpus, self._corpus.train.joined(self._transfer)
        parts = (corpus.train, corpus.selection, corpus.evaluation)
        sets = [teacher.tuning_set(part) for teacher in self._teachers for part in parts[:2]]
        sets += [
            teacher.training_set(part) for teacher in self._teachers for part in (corpus.evaluation, self._transfer)
        ]
        sets += [student.training_set(part) for student in self._students for part in (*parts, joined)]
        arrays = [array for one in sets for array in (one.tokens.ids, one.tokens.offsets, one.states)]
        for teacher in self._teachers:
            arrays += [judgement([teacher], part).numpy() for part in (*parts[:2], self._transfer)]
            hidden = with_hidden_states(sets[-1], self._students[-1], teacher, joined).hidden
            arrays += [] if hidden is None else [hidden.values, hidden.firsts, hidden.places, hidden.offsets]
        return [None if array is None else array.tobytes() for array in arrays]

    def learn(self, files: list[Path]) -> None:
        """Note what the readers give of the undamaged files."""
        for file in files:
            for name, reader in self.of(file):
                key = (name, file.parent if name != "caches" else self._cache)
                if key not in self._known:
                    self._known[key] = reader()

    def known(self, name: str, file: Path) -> Any:
        """Return what a reader gave before."""
        return self._known[name, file.parent if name != "caches" else self._cache]


def _content(transfer: TransferSet) -> Any:
    logits = None if transfer.logits is None else transfer.logits.tobytes()
    return (transfer.texts, transfer.pairs, transfer.sources, dict(transfer.dropped), transfer.teacher, logits)


def damage(file: Path, siblings: list[Path], draw: random.Random) -> str:
    """Damage a file in one of the ways; returns a description that repeats it."""
    whole = file.read_bytes()
    place = draw.randrange(len(whole)) if whole else 0
    kind = draw.choice(["bit", "bit", "byte", "cut", "longer", "zeroed", "sibling", "removed"])
    if kind == "removed":
        file.unlink()
        return kind
    if kind == "sibling" and siblings:
        other = draw.choice(siblings)
        file.write_bytes(other.read_bytes())
        return f"{kind} {other}"
    changed = bytearray(whole)
    if kind == "cut":
        del changed[place:]
    elif kind == "zeroed":
        changed[place : place + ZEROED] = bytes(len(changed[place : place + ZEROED]))
    elif kind == "longer" or not whole:
        changed += draw.randbytes(draw.randrange(1, ZEROED))
    elif kind == "byte":
        changed[place] ^= draw.randrange(1, 256)
    else:
        changed[place] ^= 1 << draw.randrange(8)
    file.write_bytes(changed)
    return f"{kind} at {place} of {len(whole)}"


def outcome(readers: Readers, file: Path) -> tuple[str, str]:
    """Let everything read a damaged file; returns what happened, and what to tell of it."""
    refused, problem = "", ""
    reading = list(readers.of(file))
    for name, reader in reading:
        try:
            if reader() != readers.known(name, file):
                problem = f"{name}: another answer than before"
        except PotstillError as error:
            refused = str(error)
            # A record that is gone is a training that has not ended; a directory may be named for its manifest.
            if file.name not in refused and str(file.parent) not in refused:
                problem = f"{name}: the error does not name the file: {refused}"
        except Exception:
            problem = f"{name}: {traceback.format_exc()}"
        if problem:
            return "failed", problem
    if not reading:
        return "unread", ""
    return ("refused", refused) if refused else ("harmless", "")


def label(file: Path, work: Path) -> str:
    """Name the kind of a file: keys, seeds and numbers left out."""
    parts = ["*" if len(part) >= 32 or part.startswith("seed-") else part for part in file.relative_to(work).parts]
    return "/".join(parts)


def main() -> None:
    """Make the run, damage it, write down what happened."""
    parser = arguments(__doc__, "torture_flips", rounds=False)
    parser.add_argument("--flips", type=int, default=2000, help="files damaged")
    options = parser.parse_args()
    draw = random.Random(options.seed)  # noqa: S311 — no secret
    torch.set_num_threads(1)
    counts: dict[str, Counter[str]] = {}
    failures = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        work = Path(name)
        config, run = small.make_run(work)
        readers = Readers(config, run, work / "cache")
        readers._caches()  # whatever the run did not need is in the cache from here on
        files = sorted(
            f for top in (run, work / "cache") for f in top.rglob("*") if f.is_file() and f.suffix != ".lock"
        )
        readers.learn(files)
        kept = {file: file.read_bytes() for file in files}
        for number in range(options.flips):
            file = draw.choice(files)
            siblings = [f for f in files if f != file and f.name == file.name and label(f, work) == label(file, work)]
            how = damage(file, siblings, draw)
            left = file.read_bytes() if file.is_file() else None
            result, why = outcome(readers, file)
            now = file.read_bytes() if file.is_file() else None
            if result == "harmless" and now == kept[file] and left != now:
                result = "rebuilt"
            counts.setdefault(label(file, work), Counter())[result] += 1
            if result == "failed":
                failures.append({"flip": number, "file": str(file.relative_to(work)), "how": how, "why": why})
                sys.stderr.write(f"{failures[-1]}\n")
            _restore(work, kept)
    runs = [{"name": name, "damaged": found.total(), **found} for name, found in sorted(counts.items())]
    total = sum(counts.values(), Counter())
    seconds = time.perf_counter() - started
    write_result(options.out, runs, flips=total.total(), total=dict(total), failures=failures, seconds=seconds)
    sys.exit(1 if failures else 0)


def _restore(work: Path, kept: dict[Path, bytes]) -> None:
    """Put every file back as it was, and remove what was made anew."""
    for file, content in kept.items():
        if not file.is_file() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    for top in ("run", "cache"):
        for file in (work / top).rglob("*"):
            if file.is_file() and file not in kept and file.suffix != ".lock":
                file.unlink()
            elif file.is_dir() and not any(file.iterdir()):
                shutil.rmtree(file)


if __name__ == "__main__":
    main()
