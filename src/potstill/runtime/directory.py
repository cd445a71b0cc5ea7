"""What a saved student's directory holds: the one definition for what writes it and what reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from potstill.errors import ArtifactError

TEACHER_MANIFEST: Final = "teacher.json"
ADAPTER_CONFIG: Final = "adapter_config.json"
"""PEFT's settings of an adapter."""

TRAINING_FILE: Final = "training.json"
"""How a model came about; written when its training ends."""

FORMAT: Final = 1
"""Version of the directory's format; raised when an older Potstill could misread a newer directory."""


def is_teacher(directory: Path) -> bool:
    """Say whether a directory holds a teacher, or an adapter that `peft` wrote. It is told without torch."""
    return any((directory / name).is_file() for name in (TEACHER_MANIFEST, ADAPTER_CONFIG))


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
    def tokenizer(self) -> Path:
        """The tokenizer, as `tokenizers.Tokenizer` saves it."""
        return self.directory / "tokenizer.json"


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
        content = {"format": FORMAT, **asdict(self)}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read `student.json`.

        Raises:
            ArtifactError: It is missing, no JSON, of another format, or a field is missing or of the wrong kind.
        """
        content = _read_json(path)
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
        fields = ("spec", "max_tokens", "pairs", "temperature", "threshold")
        known = {key: content[key] for key in fields if key in content}  # the last two were not always there
        return cls(label_names=tuple(content["label_names"]), **known)


def find_student(path: Path) -> Path:
    """Return the student's directory at `path`: itself, or the best in selection of a run's distilled students.

    Where `path` holds several seeds of one kind of student, the best of these.

    Returns `path` unchanged where neither is found: reading its manifest says what is missing.
    """
    if StudentFiles(path).manifest.is_file():
        return path
    manifests = sorted(path.glob("distilled/seed-*/student.json")) or sorted(path.glob("seed-*/student.json"))
    students = [manifest.parent for manifest in manifests]
    return max(students, key=_selection_mcc, default=path)


def _selection_mcc(directory: Path) -> float:
    file = directory / TRAINING_FILE
    if not file.is_file():  # its training was interrupted: any finished student is preferred
        return -math.inf
    best = _read_json(file).get("best")
    return float(best.get("mcc", -math.inf)) if isinstance(best, dict) else -math.inf


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path.parent} holds no saved student: expected a file {path.name}, found none\n"
            "  what to do: give the directory that the student was saved to"
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: expected JSON, found what can't be read: {error}\n"
            "  what to do: restore the file, or save the student again"
        ) from None
    return content if isinstance(content, dict) else {}


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
    temperature, threshold = content.get("temperature", 1.0), content.get("threshold")
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
