"""Names of the files in all directories, and a student's manifest: one definition for who writes and who reads."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from potstill.errors import ArtifactError
from potstill.predict.abstention import ValidationAnswers
from potstill.predict.decision import Threshold
from potstill.store.atomic import parse_json, write_json
from potstill.store.checksums import CHECKSUMS_FILE, listed_files, read, recover

TEACHER_MANIFEST: Final = "teacher.json"
ADAPTER_CONFIG: Final = "adapter_config.json"  # PEFT's settings of an adapter
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
TRAINED_FILE: Final = "trained.safetensors"
"""What `full` and `head` trained, under the names of `transformers`; PEFT's layout has no place for it."""
UNLABELLED_FILE: Final = "unlabelled.parquet"
TRAINING_FILE: Final = "training.json"  # written when a training ends
CONFIG_FILE: Final = "config.yaml"  # the settings of the command that wrote the directory
LOCK_FILE: Final = "potstill.lock"  # locked by the process that works in the directory
RECOMMENDED: Final = "recommended"  # in a run's summary: the kind of student to use
SUMMARY_FILE: Final = "summary.json"  # a run's results, for programs
DETAILS_FILE: Final = "details.json"  # single texts and curves of the page
REPORT_FILE: Final = "report.md"  # and for people
PAGE_FILE: Final = "report.html"
LABELS_FILE: Final = "labels.json"
HUB_CONFIG_FILE: Final = "config.json"
"""Only exported students have one of these two beside `student.json`."""

MIN_PAIR_LENGTH: Final = 4
"""The least `max_length` of pairs of texts, as of settings. With 1, `tokenizers` keeps all combinations of what it cuts
off both: gigabytes."""
FORMAT: Final = 2
"""Version of the directory's format; raised when an older Potstill could misread a newer directory."""

LabelType = Literal["str", "int", "float", "bool"]
"""Type of the labels in the data that a model was trained on."""
TaskKind = Literal["single-label", "multi-label"]
"""Whether a text has one class or any number of them."""
LongTexts = Literal["head", "head-tail"]
"""What is read of a text that is too long: its beginning, or its beginning and its end."""
Role = Literal["teacher", "distilled", "ngram", "baseline"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""What a run's models are; each role has a directory with its models' seeds. `ngram` are the n-grams of a student of
another role, which classify alone."""
_RUN_FILES: Final = (".json", ".yaml", ".csv", ".md", ".html")


def is_teacher(directory: Path) -> bool:
    """Say, without importing torch, whether a directory holds a teacher, or an adapter that `peft` wrote."""
    return any(holds(directory, name) for name in (TEACHER_MANIFEST, ADAPTER_CONFIG))


def is_student(directory: Path) -> bool:
    """Say whether a directory holds a student."""
    return holds(directory, StudentFiles(directory).manifest.name)


def is_model(directory: Path) -> bool:
    """Say whether a directory holds a student or a teacher."""
    return is_student(directory) or is_teacher(directory)


def is_exported(student: Path) -> bool:
    """Say whether `potstill export` wrote a student, which leaves out the files of its training."""
    return any(holds(student, name) for name in (LABELS_FILE, HUB_CONFIG_FILE))


def models_in(directory: Path) -> list[Path]:
    """List the models of a run, or of several seeds; `directory` itself is not among them."""
    places = (place for pattern in ("*/seed-*", "seed-*") for place in directory.glob(pattern))
    return sorted(place for place in places if is_model(place))


def run_files(directory: Path) -> list[str]:
    """Name a run's own files that its numbers rest on; the plots show nothing that is not in the summary."""
    names = (file.name for file in directory.iterdir() if file.suffix in _RUN_FILES and file.is_file())
    return sorted(name for name in names if name != CHECKSUMS_FILE and not name.startswith("."))


class StudentFiles:
    """Every file of a saved student."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = directory / "student.json"
        """What the student is: a `Manifest`."""
        self.weights = directory / "model.safetensors"
        """The weights for PyTorch, to train on; prediction does not need them."""
        self.model = directory / "model.onnx"
        """The whole network for onnxruntime."""
        self.tokenizer = directory / "tokenizer.json"
        """The tokenizer, as `tokenizers.Tokenizer` saves it."""
        self.needed = (self.manifest, self.tokenizer, self.model)
        """What prediction reads."""


@dataclass(frozen=True)
class Manifest:
    """What the student is, beside its weights."""

    spec: Mapping[str, Any]
    """The fields of the network's spec, see `student.base.NetworkSpec` (a mapping here: that module needs torch)."""
    label_names: tuple[str, ...]
    """Name of each class, in the order of the logits."""
    max_length: int
    """Longer texts are cut to this many tokens, see `long_texts`."""
    in_pairs: bool = False
    """Whether the student classifies pairs of texts."""
    temperature: float = 1.0
    """What the logits are divided by before the softmax; see `evaluation.calibration`."""
    threshold: Threshold = None
    """Of two classes, the second is the answer where its probability is above this. None: the most probable class. A
    number for each class where the task is multi-label: a text has the classes whose probability is above it."""
    kind: str = "rnn"
    """Which network it is; see `student.registry`."""
    label_type: LabelType = "str"
    """What `Classifier.predict` makes of the names, so that they can be compared with a user's own labels."""
    long_texts: LongTexts = "head"
    """What is read of texts that are longer than `max_length`."""
    min_confidence: float | None = None
    """Below this probability there is no answer. None: there always is one."""
    validation: ValidationAnswers | None = None
    """What `min_confidence` is chosen by; students of earlier versions have none."""

    @property
    def task(self) -> TaskKind:
        """Whether a text has one class or any number of them."""
        return "multi-label" if isinstance(self.threshold, tuple) else "single-label"

    def save(self, path: Path) -> None:
        """Write `student.json`."""
        write_json(path, {"format": FORMAT, "task": self.task, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read `student.json`, compared with its checksum; else like `parse`."""
        require_student(path.parent)
        return cls.parse(read(path.parent, [path.name])[path.name], path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> Manifest:
        """Read the content of `student.json` that was found at `path`.

        Raises:
            ArtifactError: It is no JSON, of another format, or a field is missing or of the wrong kind.
        """
        content = parse_json(data, path)
        content = {"label_type": "str", "task": "single-label", "long_texts": "head"} | content
        if content.get("format") != FORMAT:
            raise ArtifactError(
                f"{path}: expected a student of format {FORMAT}, found format {content.get('format')!r}\n"
                "  what to do: install the Potstill version that wrote it, or train the student again"
            )
        if problems := _problems(content):
            raise ArtifactError(
                f"{path} is damaged: " + "; ".join(problems) + "\n  what to do: restore it, or save the student again"
            )
        known = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        if known.get("validation") is not None:
            known["validation"] = ValidationAnswers.parse(known["validation"])
        lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
        return cls(**known | lists)

    def abstaining(self, path: Path, coverage: float | None = None, max_error: float | None = None) -> Manifest:
        """Return the manifest at `path` with a `min_confidence` for this coverage or error; itself for neither of them.

        Raises:
            ArtifactError: The student has no answers to validation texts, or they don't promise what is asked for.
            ValueError: Both are given, or one out of its range.
        """
        if coverage is None and max_error is None:
            return self
        if coverage == 1 and max_error is None:
            return replace(self, min_confidence=None)
        try:
            least = self.validated(path).min_confidence(coverage, max_error)
        except ArtifactError as error:
            raise error if str(path) in str(error) else type(error)(f"{path}: {error}") from None
        return replace(self, min_confidence=least)

    def validated(self, path: Path | str) -> ValidationAnswers:
        """Return the answers to validation texts of the manifest at `path`; an ArtifactError says that it has none."""
        if self.task == "multi-label":
            raise ArtifactError(
                f"{path}: expected a single-label student, found a multi-label one, which can't abstain\n"
                "  what to do: leave out --coverage, --max-error and --set-error; use --probabilities instead"
            )
        if self.validation is None:
            raise ArtifactError(
                f"{path}: found no answers to validation texts, which --coverage, --max-error and --set-error need: an "
                "earlier version saved this student\n  what to do: train it again"
            )
        return self.validation


_MAX_SETTINGS: Final = 1 << 20
"""Characters of a file of settings: a sparse one may claim to have any number."""


def find_student(path: Path) -> Path:
    """Return `path`, or of a run's recommended students (else its others), or of several seeds, the best in validation.

    Where there is no student, return `path`: reading its manifest says what is missing.

    Raises:
        ArtifactError: A file that decides is damaged.
    """
    if is_student(path):
        return path
    for pattern in (*(f"{role}/seed-*" for role in student_roles(path)), "seed-*"):
        if students := [one for one in sorted(path.glob(pattern)) if is_student(one)]:
            return max(students, key=_validation_mcc)
    return path


def student_roles(run: Path) -> list[Role]:
    """Name a run's kinds of students, first the one that its summary recommends.

    Raises:
        ArtifactError: The run's summary is damaged.
    """
    students: list[Role] = [role for role in ROLES if role != "teacher"]
    if holds(run, SUMMARY_FILE):
        summary = parse_json(read(run, [SUMMARY_FILE])[SUMMARY_FILE], run / SUMMARY_FILE)
        students.sort(key=lambda role: role != summary.get(RECOMMENDED))  # the others keep their order
    return students


def places(model: Path) -> list[Path]:
    """Return the directories where a model's settings may be: its own, and those of its seeds and of its run."""
    if not model.name.startswith("seed-"):
        return [model]
    return [model, model.parent, *([model.parent.parent] if model.parent.name in ROLES else [])]


def own_columns(model: Path) -> tuple[str | None, str | None]:
    """Return the columns of the text and of the second text that a model was trained on, where its settings are there.

    They are beside it, or above it in the directory of its seeds or of its run. Reading them needs PyYAML, which
    `tokenizers` brings in through `huggingface_hub`.
    """
    try:
        import yaml
    except ImportError:
        return None, None
    for place in places(model.resolve()):
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
            with (place / CONFIG_FILE).open(encoding="utf-8") as file:
                found = yaml.safe_load(file.read(_MAX_SETTINGS))["data"]
            text, pair = (found.get(name) for name in ("text_column", "pair_column"))
            return text if isinstance(text, str) else None, pair if isinstance(pair, str) else None
    return None, None


def holds(directory: Path, name: str) -> bool:
    """Say whether a file is in a directory, or is missing there though it is listed in its checksums.

    An incomplete model counts as present: reading it says what is wrong, and no other model answers in its place. An
    interrupted save is completed first.
    """
    recover(directory)
    return (directory / name).is_file() or name in listed_files(directory)


def require_student(directory: Path) -> None:
    """Raise an ArtifactError unless a directory looks like a student's; its checksums are not read."""
    recover(directory)
    name = StudentFiles(directory).manifest.name
    if not (directory / name).is_file():
        raise ArtifactError(
            f"{directory} holds no saved student: expected a file {name}, found none\n"
            "  what to do: give the directory that the student was saved to; of teachers, that of one seed"
        )


def require_graph(directory: Path) -> None:
    """Raise an ArtifactError if a student was exported without the graph that predicts."""
    name = StudentFiles(directory).model.name
    if is_exported(directory) and name not in listed_files(directory):
        purpose = "for browsers and Node" if holds(directory, "index.html") else "to train on"
        raise ArtifactError(
            f"{directory} was exported {purpose}: expected {name} to predict with, found none\n"
            f"  what to do: export the student with --format onnx"
        )


def _validation_mcc(directory: Path) -> float:
    if not holds(directory, TRAINING_FILE):  # its training was interrupted: any finished student is preferred
        return -math.inf
    best = parse_json(read(directory, [TRAINING_FILE])[TRAINING_FILE], directory / TRAINING_FILE).get("best")
    mcc: Any = best.get("mcc") if isinstance(best, dict) else None
    return float(mcc) if type(mcc) in (int, float) and -1 <= mcc <= 1 else -math.inf


_MAX_TOKENS: Final = 1 << 16
"""Sixteen times what a training may set: a longer text would take all memory."""
_MAX_ROWS: Final = 1 << 31
"""Most rows of a table: a graph of 2 GiB can't hold more."""


def _problems(content: dict[str, Any]) -> list[str]:
    """Say of every field of `student.json` that can't be used what was expected and what was found."""
    is_mapping = isinstance(content.get("spec"), dict)
    spec: dict[str, Any] = defaultdict(lambda: None, content["spec"] if is_mapping else {})
    found: dict[str, Any] = defaultdict(lambda: None, content | {f"spec.{name}": spec[name] for name in [*spec]})
    rows, classes, buckets = (spec[name] for name in ("vocab_size", "num_classes", "ngram_buckets"))
    names, temperature, threshold = (found[name] for name in ("label_names", "temperature", "threshold"))
    least, shortest = found["min_confidence"], MIN_PAIR_LENGTH if found["in_pairs"] is True else 1
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    has_rows = _is_whole(rows, 1, _MAX_ROWS)
    checks = (
        ("spec", "a mapping", is_mapping),
        ("spec.vocab_size", f"a whole number up to {_MAX_ROWS:,}", has_rows),
        ("spec.num_classes", "a whole number", _is_whole(classes, 0, _MAX_ROWS)),
        (
            "spec.pad_token_id",
            "a whole number below spec.vocab_size",
            has_rows and _is_whole(spec["pad_token_id"], 0, rows - 1),
        ),
        (
            "spec.ngram_buckets",
            f"a power of two from 2 to {_MAX_ROWS:,}",
            not spec["ngram_size"] or (_is_whole(buckets, 2, _MAX_ROWS) and buckets.bit_count() == 1),
        ),
        (
            "label_names",
            f"a list of {str(classes)[:20]} different names",
            are_names and len({*names}) == len(names) == classes,
        ),
        (
            "max_length",
            f"a whole number from {shortest} to {_MAX_TOKENS:,}",
            _is_whole(found["max_length"], shortest, _MAX_TOKENS),
        ),
        ("in_pairs", "true or false", isinstance(found["in_pairs"], bool)),
        (
            "temperature",
            "a number from 0.001 to 1000",
            type(temperature) in (int, float) and 1e-3 <= temperature <= 1e3,
        ),
        ("task", "single-label or multi-label", found["task"] in get_args(TaskKind)),
        _threshold_check(found["task"], threshold, classes),
        ("kind", "a name", isinstance(found["kind"], str)),
        ("label_type", "str, int, float or bool", found["label_type"] in get_args(LabelType)),
        ("long_texts", "head or head-tail", found["long_texts"] in get_args(LongTexts)),
        (
            "min_confidence",
            "null, or a number from 0 to 1,",
            least is None or (type(least) is float and 0 <= least <= 1),
        ),
        ("validation", "null, or lists of probabilities `right` and `wrong`,", _are_answers(found["validation"])),
    )
    return [
        f"expected {expected} as {name}, found {repr(found[name])[:500]}"
        for name, expected, is_right in checks
        if not is_right
    ]


def _threshold_check(task: object, threshold: Any, classes: Any) -> tuple[str, str, bool]:
    def is_share(value: Any) -> bool:
        return type(value) is float and 0 < value < 1

    if task == "multi-label":
        is_right = isinstance(threshold, list) and len(threshold) == classes and all(map(is_share, threshold))
        return "threshold", f"a list of {str(classes)[:20]} numbers above 0 and below 1", is_right
    is_right = threshold is None or (classes == 2 and is_share(threshold))
    return "threshold", "null, or for two classes a number above 0 and below 1,", is_right


def _are_answers(value: Any) -> bool:
    with suppress(ValueError):
        return value is None or bool(ValidationAnswers.parse(value))
    return False


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most
