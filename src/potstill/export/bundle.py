"""A student as a directory to hand on: what prediction needs, a card that describes it, checksums; no training files.

| layout | network               | beside it                    |
|--------|-----------------------|------------------------------|
| `onnx` | `model.onnx`          |                              |
| `web`  | `weights.safetensors` | `index.html`, `potstill.js`  |

`student.json`, `tokenizer.json`, `labels.json`, `card.md` and `checksums.json` are in both.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from potstill.config import StudentConfig
from potstill.console import print_line
from potstill.evaluation.measure import measure
from potstill.experiment.saved import StudentModel
from potstill.export.card import Layout, write_card
from potstill.export.origin import Origin
from potstill.export.web import write_page
from potstill.lora.counting import count_parameters
from potstill.predict import Classifier
from potstill.predict.directory import LABELS_FILE, Manifest, StudentFiles
from potstill.store.atomic import ensure_replaceable, write_directory_atomically, write_json, write_text
from potstill.store.checksums import assert_unchanged, read, write_checksums
from potstill.student.base import Network
from potstill.student.parity import PROOF_BATCHES, prove_parity
from potstill.student.saved import load_network, new_network

CARD_NAME: Final = "card.md"

_SEED: Final = 1
"""Draws the ids of the parity check: others than the check at saving drew."""
_SIZES: Final = (2, 3, 65, 130)
"""Texts in its further batches: a few, and more than are ever computed at once in prediction."""


def export_student(
    student: Path, out: Path, layout: Layout, *, coverage: float | None = None, max_error: float | None = None
) -> list[Path]:
    """Write a saved student as a directory of its own, new or empty before: all of it, or nothing.

    With `coverage` or `max_error` it abstains, see `Classifier.load`.

    Returns:
        The files written.

    Raises:
        ArtifactError: `out` holds something, the student is incomplete or damaged, or its graph does not compute what
            its weights compute, or the student was saved again meanwhile.
    """
    ensure_replaceable(out)  # before anything is computed

    def fill(directory: Path) -> None:
        with assert_unchanged(student):
            _fill(directory, student, layout, coverage, max_error)

    write_directory_atomically(out, fill)
    return sorted(out.iterdir())


def _fill(directory: Path, student: Path, layout: Layout, coverage: float | None, max_error: float | None) -> None:
    files, classifier = StudentFiles(student), Classifier.load(student, coverage=coverage, max_error=max_error)
    saved = Manifest.load(files.manifest)
    manifest = replace(saved, min_confidence=classifier.min_confidence)
    origin = Origin.find(student, manifest)
    copied = (files.manifest, files.tokenizer, *([files.model] if layout == "onnx" else []))
    for name, content in read(student, [file.name for file in copied]).items():
        (directory / name).write_bytes(content)
    write_json(directory / LABELS_FILE, list(manifest.label_names))
    if manifest != saved:
        manifest.save(directory / files.manifest.name)
    if layout == "web":
        held_out = () if origin.corpus is None else origin.corpus.validation.items
        texts = [item if manifest.in_pairs else item[0] for item in held_out]
        found = read(student, [file.name for file in files.needed])
        found[files.manifest.name] = (directory / files.manifest.name).read_bytes()
        classifier, checks = write_page(student, directory, found, texts, origin.data_name)
        network = new_network(manifest, student)
        for check in checks:
            print_line(check)
    write_checksums(directory)
    if layout != "web":
        network, checks = _prove(student, directory, manifest)
    card = write_card(
        manifest,
        origin,
        layout,
        network=network.describe(StudentConfig()) if origin.record is None else origin.record.description,
        parameters=count_parameters(network)[0],
        checks=checks,
        # Where its data can't be read, what its run found.
        scored=origin.result if origin.corpus is None else measure(StudentModel(classifier), origin.corpus.test),
    )
    # After the checksums, which leave the card out: its readers may add to it.
    write_text(directory / CARD_NAME, card)


def _prove(student: Path, directory: Path, manifest: Manifest) -> tuple[Network, list[str]]:
    """Compare an exported network with PyTorch; returns it, and in a sentence what was found."""
    network = load_network(student)
    generator = np.random.default_rng(_SEED)
    drawn = [generator.integers(1, manifest.max_length + 1, size=size).tolist() for size in _SIZES]
    batches = (*PROOF_BATCHES, *drawn, [manifest.max_length], [manifest.max_length + 1])
    model = StudentFiles(student).model.name
    difference = prove_parity(network, read(directory, [model])[model], _SEED, batches)
    return network, [
        f"Parity: on random texts of up to {manifest.max_length + 1} tokens the exported network's logits and "
        f"PyTorch's differ by {difference:.1e} at most."
    ]
