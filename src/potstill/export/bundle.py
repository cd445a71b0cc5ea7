"""A student as a directory to hand on: what predicts, a card that tells what it is, checksums; nothing of its training.

| layout        | network                                         | beside it                                         |
|---------------|-------------------------------------------------|---------------------------------------------------|
| `onnx`        | `model.onnx`; where it pays, `model.int8.onnx`  | `tokenizer.json`, `labels.json`, `card.md`        |
| `torch`       | `model.safetensors`                             | the same                                          |
| `huggingface` | `model.safetensors`                             | `config.json`, the tokenizer's files, `README.md` |

`student.json` and `checksums.json` are in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from potstill.artifacts import vacate, write_new_directory
from potstill.export.card import Card, Layout, Score, hub_config
from potstill.export.int8 import Trial, compare, quantise
from potstill.export.origin import Origin
from potstill.export.plain import plain_tokenizer
from potstill.files import write_json, write_text
from potstill.lora.counting import count_parameters
from potstill.models import StudentModel, measure
from potstill.runtime import Classifier
from potstill.runtime.directory import HUB_CONFIG_FILE, LABELS_FILE, Manifest, StudentFiles
from potstill.runtime.seal import SEAL, read, seal, undisturbed
from potstill.runtime.session import open_session
from potstill.runtime.words import WordEncoder
from potstill.student.onnx import PROOF_BATCHES, Batches, prove_parity
from potstill.student.saved import load_network

CARDS: Final[dict[Layout, str]] = {"onnx": "card.md", "torch": "card.md", "huggingface": "README.md"}

_SEED: Final = 1
"""Draws the proof's ids: others than the proof at saving drew."""
_SIZES: Final = (2, 3, 65, 130)
"""Texts in the further batches of the proof: a few, and more than the runtime ever computes at once."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: All of it.
        trial: How the 8-bit variant did, where one was tried.
        no_int8: Why there is none; empty where there is one, or none was asked for.
    """

    files: list[Path]
    trial: Trial | None
    no_int8: str


def export_student(student: Path, out: Path, layout: Layout, *, int8: bool = True) -> Exported:
    """Write a student as a directory of its own: all of it, or nothing.

    Args:
        student: A saved student's directory.
        out: A new or empty directory.
        layout: What goes into it.
        int8: Try an 8-bit variant too, which only the layout `onnx` has. It is kept where it is measured to be smaller
            or faster, neither larger nor slower, with an MCC within `MCC_TOLERANCE` on the selection split.

    Raises:
        ArtifactError: `out` holds something, the student is incomplete or damaged, or its graph does not compute what
            its weights compute, or the student was saved again meanwhile.
    """
    vacate(out)  # what is there already is refused now; what is written comes as a whole
    written: list[tuple[Trial | None, str]] = []

    def fill(directory: Path) -> None:
        with undisturbed(student):
            written.append(_fill(directory, student, layout, int8=int8))

    write_new_directory(out, fill)
    return Exported(sorted(out.iterdir()), *written[0])


def _fill(directory: Path, student: Path, layout: Layout, *, int8: bool) -> tuple[Trial | None, str]:
    """Write all files; returns how the 8-bit variant did, and why there is none."""
    manifest = Manifest.load(StudentFiles(student).manifest)
    classifier = Classifier.load(student)
    origin = Origin.find(student, manifest)
    _write_files(student, directory, layout, manifest)
    _seal(directory)
    network = load_network(student if layout == "onnx" else directory)
    batches = (*PROOF_BATCHES, *_unseen(manifest.max_tokens))
    model = StudentFiles(student).model.name
    graph = read(directory if layout == "onnx" else student, [model])[model]
    difference = prove_parity(network, graph, _SEED, batches)
    variant, trial, no_int8 = None, None, ""
    if int8 and layout == "onnx":
        variant, trial, no_int8 = _try_int8(directory, graph, manifest, origin)
        _seal(directory)
    card = Card(
        manifest=manifest,
        origin=origin,
        layout=layout,
        parameters=count_parameters(network)[0],
        difference=difference,
        batches=len(batches),
        scores=tuple(_scores(classifier, variant, origin)),
        trial=trial,
        no_int8=no_int8,
        sizes={file.name: file.stat().st_size for file in sorted(directory.iterdir()) if file.name != SEAL},
    )
    # After the seal, which leaves the card out: whoever hands the model on may write more into it.
    write_text(directory / CARDS[layout], card.text())
    return trial, no_int8


def _write_files(student: Path, directory: Path, layout: Layout, manifest: Manifest) -> None:
    """Copy what predicts, as it is sealed, and write what describes it."""
    files = StudentFiles(student)
    network = files.model if layout == "onnx" else files.weights
    found = read(student, [file.name for file in (files.manifest, files.tokenizer, network)])
    for name, content in found.items():
        (directory / name).write_bytes(content)
    if layout == "huggingface":
        write_json(directory / HUB_CONFIG_FILE, hub_config(manifest))
        backend = Tokenizer.from_str(found[files.tokenizer.name].decode("utf-8"))
        plain_tokenizer(backend, manifest.spec["padding_id"], manifest.max_tokens).save_pretrained(directory)
    else:
        write_json(directory / LABELS_FILE, list(manifest.label_names))


def _seal(directory: Path) -> None:
    """Seal all files that there are."""
    seal(directory, [file.name for file in directory.iterdir() if file.name != SEAL])


def _unseen(max_tokens: int) -> Batches:
    """Draw lengths for more batches than a save proves: of other sizes, up to the longest text and beyond."""
    generator = np.random.default_rng(_SEED)
    drawn = [generator.integers(1, max_tokens + 1, size=size).tolist() for size in _SIZES]
    return [*drawn, [max_tokens], [max_tokens + 1]]


def _try_int8(
    directory: Path, graph: bytes, manifest: Manifest, origin: Origin
) -> tuple[Classifier | None, Trial | None, str]:
    """Write the 8-bit variant if it is worth having; returns it, how it did, and else why not."""
    if origin.corpus is None:
        return None, None, origin.no_corpus
    files = StudentFiles(directory)
    reduced = quantise(graph)
    float32, int8 = (_open(content, files.tokenizer, manifest) for content in (graph, reduced))
    trial = compare(float32, int8, (len(graph), len(reduced)), origin.corpus.selection)
    if trial.problem is not None:
        return None, trial, trial.problem
    files.int8_model.write_bytes(reduced)
    return int8, trial, ""


def _open(graph: bytes, tokenizer: Path, manifest: Manifest) -> Classifier:
    encoder = WordEncoder(Tokenizer.from_file(str(tokenizer)), manifest.max_tokens)
    return Classifier(open_session(graph, threads=1), encoder, manifest)


def _scores(classifier: Classifier, variant: Classifier | None, origin: Origin) -> Iterator[Score]:
    """Score the graphs on the evaluation split, where it is at hand; else tell what the run found."""
    if origin.corpus is not None:
        for name, graph in (("this model", classifier), ("with 8 bits", variant)):
            if graph is not None:
                measured = measure(StudentModel(graph), origin.corpus.evaluation)
                yield Score(name, measured.metrics, measured.intervals)
    elif (result := origin.result) is not None:
        yield Score("this model", result.metrics, result.intervals)
