"""A student as a directory to hand on: what prediction needs, a card that describes it, checksums; no training files.

| layout        | network               | beside it                                                               |
|---------------|-----------------------|-------------------------------------------------------------------------|
| `onnx`        | `model.onnx`          | `tokenizer.json`, `labels.json`, `card.md`                              |
| `huggingface` | `model.safetensors`   | `config.json`, the tokenizer's files, `README.md`                       |
| `web`         | `weights.safetensors` | `index.html`, `potstill.js`, `tokenizer.json`, `labels.json`, `card.md` |

`student.json` and `checksums.json` are in all of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer

from potstill.config import StudentConfig
from potstill.console import print_line
from potstill.evaluation.measure import measure
from potstill.experiment.saved import StudentModel
from potstill.export.card import Layout, write_card
from potstill.export.origin import Origin
from potstill.export.plain import plain_tokenizer
from potstill.export.web import write_page
from potstill.lora.counting import count_parameters
from potstill.predict import Classifier
from potstill.predict.directory import HUB_CONFIG_FILE, LABELS_FILE, Manifest, StudentFiles
from potstill.store.atomic import ensure_replaceable, write_directory_atomically, write_json, write_text
from potstill.store.checksums import assert_unchanged, read, write_checksums
from potstill.student.base import Network
from potstill.student.parity import PROOF_BATCHES, prove_parity
from potstill.student.saved import load_network, new_network

CARDS: Final[dict[Layout, str]] = {"onnx": "card.md", "huggingface": "README.md", "web": "card.md"}

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
    _write_files(student, directory, layout, manifest)
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
        network, checks = _prove(student, directory, layout, manifest)
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
    write_text(directory / CARDS[layout], card)


def _prove(student: Path, directory: Path, layout: Layout, manifest: Manifest) -> tuple[Network, list[str]]:
    """Compare an exported network with PyTorch; returns it, and in a sentence what was found."""
    network = load_network(student if layout == "onnx" else directory)
    generator = np.random.default_rng(_SEED)
    drawn = [generator.integers(1, manifest.max_length + 1, size=size).tolist() for size in _SIZES]
    batches = (*PROOF_BATCHES, *drawn, [manifest.max_length], [manifest.max_length + 1])
    model = StudentFiles(student).model.name
    graph = read(directory if layout == "onnx" else student, [model])[model]
    difference = prove_parity(network, graph, _SEED, batches)
    return network, [
        f"Parity: on random texts of up to {manifest.max_length + 1} tokens the exported network's logits and "
        f"PyTorch's differ by {difference:.1e} at most."
    ]


def _write_files(student: Path, directory: Path, layout: Layout, manifest: Manifest) -> None:
    """Copy what predicts, compared with its checksums, and write what describes it."""
    files = StudentFiles(student)
    network = {"onnx": [files.model], "huggingface": [files.weights], "web": []}[layout]
    found = read(student, [file.name for file in (files.manifest, files.tokenizer, *network)])
    for name, content in found.items():
        (directory / name).write_bytes(content)
    if layout == "huggingface":
        write_json(directory / HUB_CONFIG_FILE, _hub_config(manifest))
        backend = Tokenizer.from_str(found[files.tokenizer.name].decode("utf-8"))
        plain_tokenizer(backend, manifest.spec["pad_token_id"], manifest.max_length).save_pretrained(directory)
    else:
        write_json(directory / LABELS_FILE, list(manifest.label_names))


def _hub_config(manifest: Manifest) -> dict[str, Any]:
    names = manifest.label_names
    return {
        "architectures": ["PotstillStudent"],
        "model_type": "potstill-student",
        "problem_type": f"{manifest.task.replace('-', '_')}_classification",
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "dtype": "float32",
        "pad_token_id": manifest.spec["pad_token_id"],
        "max_position_embeddings": manifest.max_length,
        "temperature": manifest.temperature,
        "threshold": manifest.threshold,
        "min_confidence": manifest.min_confidence,
        "long_texts": manifest.long_texts,
        **manifest.spec,
    }
