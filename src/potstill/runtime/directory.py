"""Names of the files in all directories, and a student's manifest: one definition for who writes and who reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from potstill.errors import ArtifactError
from potstill.files import parse_json, write_json
from potstill.runtime.seal import SEAL, read, sealed_names, settle

TEACHER_MANIFEST: Final = "teacher.json"
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
"""PEFT's settings of an adapter, and its weights."""
TRAINED_FILE: Final = "trained.safetensors"
"""What `full` and `head` trained, under the names of `transformers`; PEFT's layout has no place for it."""

TRANSFER_FILE: Final = "transfer.parquet"
"""A transfer set."""

TRAINING_FILE: Final = "training.json"
"""How a model came about; written when its training ends."""

CONFIG_FILE: Final = "config.yaml"
"""The settings of whatever a command does in its directory."""

LOCK_FILE: Final = "potstill.lock"
"""Locked by the process that works in the directory."""

SUMMARY_FILE: Final = "summary.json"
REPORT_FILE: Final = "report.md"
"""A run's results, for programs and for people."""

LABELS_FILE: Final = "labels.json"
HUB_CONFIG_FILE: Final = "config.json"
"""Only exported students have one of these beside `student.json`."""

FORMAT: Final = 1
"""Version of the directory's format; raised when an older Potstill could misread a newer directory."""


_RUN_FILES: Final = (".json", ".yaml", ".csv", ".md")


def is_teacher(directory: Path) -> bool:
    """Say whether a directory holds a teacher, or an adapter that `peft` wrote. It is told without torch."""
    return any(holds(directory, name) for name in (TEACHER_MANIFEST, ADAPTER_CONFIG))


def is_student(directory: Path) -> bool:
    """Say whether a directory holds a student."""
    return holds(directory, StudentFiles(directory).manifest.name)


def is_model(directory: Path) -> bool:
    """Say whether a directory holds a student or a teacher."""
    return is_student(directory) or is_teacher(directory)


def is_exported(student: Path) -> bool:
    """Say whether a student was handed on by `potstill export`, which leaves out what was of its training."""
    return any(holds(student, name) for name in (LABELS_FILE, HUB_CONFIG_FILE))


def models_in(directory: Path) -> list[Path]:
    """List the models of a run, or of several seeds; `is_model` tells of `directory` itself."""
    places = (place for pattern in ("*/seed-*", "seed-*") for place in directory.glob(pattern))
    return sorted(place for place in places if is_model(place))


def run_files(directory: Path) -> list[str]:
    """Name a run's own files that its numbers rest on. The plots say nothing that is not in the summary."""
    names = (file.name for file in directory.iterdir() if file.suffix in _RUN_FILES and file.is_file())
    return sorted(name for name in names if name != SEAL and not name.startswith("."))


@dataclass(frozen=True)
class StudentFiles:
    """Every file of a saved student."""

    directory: Path

    @property
    def manifest(self) -> Path:
        """What the student is: a `Manifest`."""
        return self.directory / "student.json"

    @property
    def weights(self) -> Path:
        """The weights for PyTorch, to train on; prediction does not need them."""
        return self.directory / "model.safetensors"

    @property
    def model(self) -> Path:
        """The whole network for onnxruntime."""
        return self.directory / "model.onnx"

    @property
    def int8_model(self) -> Path:
        """The same with weights of 8 bits; `potstill export` writes it where it pays."""
        return self.directory / "model.int8.onnx"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer, as `tokenizers.Tokenizer` saves it."""
        return self.directory / "tokenizer.json"

    @property
    def needed(self) -> tuple[Path, Path, Path]:
        """What prediction reads: manifest, tokenizer and network."""
        return self.manifest, self.tokenizer, self.model


@dataclass(frozen=True)
class Manifest:
    """What the student is, beside its weights."""

    spec: Mapping[str, Any]
    """The fields of `student.network.StudentSpec` (a mapping here: that module needs torch)."""
    label_names: tuple[str, ...]
    """Name of each class, in the order of the logits."""
    max_tokens: int
    """Longer texts are cut to this many tokens."""
    pairs: bool = False
    """Whether the student classifies pairs of texts."""
    temperature: float = 1.0
    """What the logits are divided by before the softmax; see `evaluation.calibration`."""
    threshold: float | None = None
    """Of two classes, the second is the answer where its probability is above this. None: the most probable class."""

    def save(self, path: Path) -> None:
        """Write `student.json`."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read `student.json`, provided that it is what its directory's seal says.

        Raises:
            ArtifactError: It is missing, altered, of another format, or a field is missing or of the wrong kind.
        """
        require_student(path.parent)
        return cls.parse(read(path.parent, [path.name])[path.name], path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> Manifest:
        """Read the content of `student.json` that was found at `path`.

        Raises:
            ArtifactError: It is no JSON, of another format, or a field is missing or of the wrong kind.
        """
        content = parse_json(data, path)
        if content.get("format") != FORMAT:
            raise ArtifactError(
                f"{path}: expected a student of format {FORMAT}, found format {content.get('format')!r}\n"
                "  what to do: install the Potstill version that wrote it, or train the student again"
            )
        problems = _problems(content)
        if problems:
            raise ArtifactError(
                f"{path} is damaged: " + "; ".join(problems) + "\n  what to do: restore it, or save the student again"
            )
        known: dict[str, Any] = {
            key: content.get(key) for key in ("spec", "max_tokens", "pairs", "temperature", "threshold")
        }
        return cls(label_names=tuple(content["label_names"]), **known)


def find_student(path: Path) -> Path:
    """Return the student's directory at `path`: itself, or the best in selection of a run's distilled students.

    Where `path` holds several seeds of one kind of student, the best of these.

    Returns `path` unchanged where neither is found: reading its manifest says what is missing.
    """
    if is_student(path):
        return path
    for pattern in ("distilled/seed-*", "seed-*"):
        if students := [one for one in sorted(path.glob(pattern)) if is_student(one)]:
            return max(students, key=_selection_mcc)
    return path


def holds(directory: Path, name: str) -> bool:
    """Say whether a file stands in a directory, or is missing from what was sealed there.

    Whoever chooses among models takes an incomplete one for one that is there: reading it says what is wrong, where
    another one's answers would come without a word. A save that was killed once it counted is ended first.
    """
    settle(directory)
    return (directory / name).is_file() or name in sealed_names(directory)


def _selection_mcc(directory: Path) -> float:
    file = directory / TRAINING_FILE
    if not holds(directory, TRAINING_FILE):  # its training was interrupted: any finished student is preferred
        return -math.inf
    best = parse_json(read(directory, [file.name])[file.name], file).get("best")
    mcc = best.get("mcc") if isinstance(best, dict) else None
    return float(mcc) if _is_number(mcc) else -math.inf


def require_student(directory: Path) -> None:
    """Check that a directory looks like a student's, before its seal is asked for.

    Raises:
        ArtifactError: It does not.
    """
    settle(directory)
    name = StudentFiles(directory).manifest.name
    if not (directory / name).is_file():
        raise ArtifactError(
            f"{directory} holds no saved student: expected a file {name}, found none\n"
            "  what to do: give the directory that the student was saved to; of teachers, that of one seed"
        )


def require_graph(directory: Path) -> None:
    """Check that a student was not exported without the graph that predicts.

    Raises:
        ArtifactError: It was.
    """
    name = StudentFiles(directory).model.name
    if is_exported(directory) and name not in sealed_names(directory):
        raise ArtifactError(
            f"{directory} was exported to train on: expected {name} to predict with, found none\n"
            f"  what to do: export the student with --format onnx"
        )


def _problems(content: dict[str, Any]) -> list[str]:
    """Say of every field that can't be used what was expected and what was found."""
    spec, names, max_tokens = (content.get(key) for key in ("spec", "label_names", "max_tokens"))
    problems = []
    if not isinstance(spec, dict):
        problems.append(f"expected a mapping as spec, found {spec!r}")
    else:
        problems += [
            f"expected a whole number as spec.{key}, found {spec.get(key)!r}"
            for key in ("vocab_size", "num_classes", "padding_id")
            if not _is_count(spec.get(key))
        ]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problems.append(f"expected a list of names as label_names, found {names!r}")
    elif isinstance(spec, dict) and len(set(names)) != spec.get("num_classes"):
        problems.append(f"expected {spec.get('num_classes')} different label_names, found {names!r}")
    if not isinstance(content.get("pairs"), bool):
        problems.append(f"expected true or false as pairs, found {content.get('pairs')!r}")
    if not _is_count(max_tokens) or max_tokens == 0:
        problems.append(f"expected a positive whole number as max_tokens, found {max_tokens!r}")
    return problems + _decision_problems(content)


def _decision_problems(content: dict[str, Any]) -> list[str]:
    temperature, threshold = content.get("temperature"), content.get("threshold")
    problems = []
    if not _is_number(temperature) or temperature <= 0:
        problems.append(f"expected a finite number above 0 as temperature, found {temperature!r}")
    if threshold is None:
        return problems
    if not _is_number(threshold) or not 0 < threshold < 1:
        problems.append(f"expected a number above 0 and below 1, or null, as threshold, found {threshold!r}")
    names = content.get("label_names")
    if isinstance(names, list) and len(names) != 2:
        problems.append(f"expected null as threshold of {len(names)} classes, found {threshold!r}")
    return problems


def _is_number(value: object) -> TypeGuard[float]:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
