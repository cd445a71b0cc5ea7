"""Damage every file of a run, its models and its caches, and see that no reader gives a wrong answer or a traceback.

    python benchmarks/stress/flips.py --flips 2000

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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small

from common import arguments, write_result
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig, RuntimeConfig
from potstill.data import load_corpus
from potstill.errors import PotstillError
from potstill.experiment.record import TrainingRecord
from potstill.predict import Classifier
from potstill.predict.directory import find_student
from potstill.report import read_summary
from potstill.store.checksums import verify
from potstill.student.saved import load_network
from potstill.student.student import Student
from potstill.teacher.cache import CachedTeacher
from potstill.teacher.transformer import TransformerTeacher

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
        self._teachers = [
            TransformerTeacher.load(run / "teacher" / f"seed-{seed}", CPU) for seed in config.teacher.seeds
        ]
        self._unlabelled = UnlabelledSet.load(run / "unlabelled").examples
        make = partial(Student.create, config.student, self._corpus, config.data.max_length, 0)
        texts = self._corpus.train.all_texts
        self._students = make(texts=texts), make(texts=[*texts, *self._unlabelled.all_texts])
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
            load, validation = partial(TransformerTeacher.load, directory, CPU), self._corpus.validation
            yield "teacher", lambda: load().logits(validation, cached=False).tolist()
            yield "record", lambda: vars(TrainingRecord.load(directory))
        elif directory.parent.name in ("distilled", "baseline"):
            yield "student", lambda: Classifier.load(directory, threads=1).predict_proba(TEXTS).tolist()
            yield "network", lambda: {name: p.tolist() for name, p in load_network(directory).state_dict().items()}
            yield "record", lambda: vars(TrainingRecord.load(directory))
            yield "choice", lambda: find_student(directory.parent)
        elif directory.name == "unlabelled":
            yield "unlabelled", lambda: _content(UnlabelledSet.load(directory))
            return
        else:
            return  # plots: only people read them
        yield "checksums", lambda: sorted(verify(directory))

    def _caches(self) -> Any:
        """Go through everything that is kept in the cache, as a training does."""
        corpus = self._corpus
        parts = (corpus.train, corpus.validation, corpus.test, self._unlabelled)
        joined = corpus.train.joined(self._unlabelled)
        sets = [teacher.featurise(part) for teacher in self._teachers for part in parts]
        sets += [student.featurise(part) for student in self._students for part in (*parts, joined)]
        arrays = [array for one in sets for array in (one.tokens.ids, one.tokens.offsets)]
        arrays += [CachedTeacher(teacher).logits(part) for teacher in self._teachers for part in parts]
        return [array.tobytes() for array in arrays]

    def known(self, name: str, file: Path) -> Any:
        """Return what a reader gives of the undamaged file; the first call, before any damage, has to learn it."""
        key = name, self._cache if name == "caches" else file.parent
        if key not in self._known:
            self._known[key] = dict(self.of(file))[name]()
        return self._known[key]


def _content(unlabelled: UnlabelledSet) -> Any:
    logits = None if unlabelled.logits is None else unlabelled.logits.tobytes()
    return replace(unlabelled, logits=None), logits


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


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def label(file: Path, work: Path) -> str:
    """Name the kind of a file: keys, seeds and numbers left out."""
    parts = ["*" if len(part) >= 32 or part.startswith("seed-") else part for part in file.relative_to(work).parts]
    return "/".join(parts)


def main() -> None:
    """Make the run, damage it, write down what happened."""
    parser = arguments(__doc__, "stress_flips", rounds=False)
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
        for file in files:
            for reader, _ in readers.of(file):
                readers.known(reader, file)
        for top in ("run", "cache"):
            shutil.copytree(work / top, work / "whole" / top)
        for number in range(options.flips):
            file = draw.choice(files)
            siblings = [f for f in files if f != file and f.name == file.name and label(f, work) == label(file, work)]
            how = damage(file, siblings, draw)
            damaged = _bytes(file)
            result, why = outcome(readers, file)
            if result == "harmless" and damaged != _bytes(file) == _bytes(work / "whole" / file.relative_to(work)):
                result = "rebuilt"
            counts.setdefault(label(file, work), Counter())[result] += 1
            if result == "failed":
                failures.append({"flip": number, "file": str(file.relative_to(work)), "how": how, "why": why})
                sys.stderr.write(f"{failures[-1]}\n")
            for top in ("run", "cache"):
                shutil.rmtree(work / top)
                shutil.copytree(work / "whole" / top, work / top)
    runs = [{"name": name, "damaged": found.total(), **found} for name, found in sorted(counts.items())]
    total = sum(counts.values(), Counter())
    seconds = time.perf_counter() - started
    write_result(options.out, runs, flips=total.total(), total=dict(total), failures=failures, seconds=seconds)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
