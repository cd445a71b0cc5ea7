"""N-grams, alone and beside a recurrent network: the same logits in PyTorch, in ONNX and from a saved student."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from checksummed import with_new_checksums
from potstill.config import PotstillConfig, RuntimeConfig, StudentConfig
from potstill.data import Corpus, Examples
from potstill.errors import ArtifactError, ConfigError
from potstill.predict import Classifier
from potstill.predict.session import NGRAM_ROWS, NGRAM_WEIGHTS, open_session
from potstill.student.ngram import NgramClassifier, NgramSpec
from potstill.student.parity import prove_parity
from potstill.student.saved import load_network
from potstill.student.student import Student, round_tables
from potstill.training.compute import make_fabric
from potstill.training.inference import predict_logits
from tiny_students import tiny_student

TEXTS = ("what is my balance", "Freeze my card!", "", "hello " * 30, "is my balance low?")
LABELS = np.array([0, 1, 2, 0, 1])
CORPUS = Corpus("some", "some", ("a", "b", "c"), *[Examples(TEXTS, LABELS)] * 3)
KINDS = {"ngram": {"kind": "ngram", "ngram_buckets": 256}, "hybrid": {"ngram_size": 4, "ngram_buckets": 256}}


def settings_of(**student: object) -> StudentConfig:
    return PotstillConfig.build({"student": student}).student


def make_student(kind: str, *, in_pairs: bool = False) -> Student:
    part = Examples(TEXTS, LABELS, TEXTS[::-1] if in_pairs else None)
    corpus = replace(CORPUS, train=part, validation=part, test=part)
    student = Student.create(settings_of(vocab_size=300, **KINDS[kind]), corpus, 16, seed=0)
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.normal_(std=0.1)
    return student


def test_onnx_parity_beside_a_recurrent_network() -> None:
    network = tiny_student(ngram_size=4, ngram_buckets=64)
    assert prove_parity(network, network.to_onnx(), seed=1) <= 1e-5


def test_graph_of_ngrams_alone_reads_no_tokens() -> None:
    network = NgramClassifier(
        NgramSpec(vocab_size=9, num_classes=3, pad_token_id=0, ngram_buckets=64, ngram_size=4, dropout=0.1)
    )
    assert prove_parity(network, network.to_onnx(), seed=1) <= 1e-5
    assert {node.name for node in open_session(network.to_onnx()).get_inputs()} == {NGRAM_ROWS, NGRAM_WEIGHTS}


@pytest.mark.parametrize(("texts", "in_pairs"), [(TEXTS, False), (TEXTS, True), (("", ""), False)])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_student_answers_as_in_training(
    kind: str, texts: tuple[str, ...], in_pairs: bool, tmp_path: Path
) -> None:
    student = make_student(kind, in_pairs=in_pairs)
    student.save(tmp_path)
    student.prove(tmp_path)
    examples = Examples(texts, np.zeros(len(texts), np.int64), texts[::-1] if in_pairs else None)
    expected = predict_logits(
        student.network, student.featurise(examples), make_fabric(RuntimeConfig(precision="32-true"))
    )

    classifier = Classifier.load(tmp_path, batch_size=2)

    found = classifier.logits(list(zip(texts, texts[::-1], strict=True)) if in_pairs else texts)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_training_changes_the_table_in_mixed_precision_too() -> None:
    student = make_student("hybrid")
    data = student.featurise(Examples(TEXTS, np.array([0, 1, 2, 0, 1])))
    fabric = make_fabric(RuntimeConfig(precision="bf16-mixed", device="cpu"))
    network = fabric.setup(student.network)
    batch = data.batch(range(len(data)))
    fabric.backward(torch.nn.functional.cross_entropy(network(*batch.inputs), batch.labels))
    assert student.network.get_parameter("ngrams.table.weight").grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["rnn", "ngram"])
def test_number_of_rows_is_a_power_of_two(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"ngram_buckets.*must be a power of two"):
        settings_of(kind=kind, ngram_buckets=1000)


def test_tables_are_stored_in_half_precision_where_that_loses_nothing() -> None:
    network = tiny_student(ngram_size=4, ngram_buckets=1024)
    before = len(network.to_onnx())
    round_tables(network)
    assert len(network.to_onnx()) < before - 1024 * 4
    assert prove_parity(network, network.to_onnx(), seed=1) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_student_of_an_unknown_number_of_rows_is_refused(kind: str, tmp_path: Path) -> None:
    make_student(kind).save(tmp_path)
    manifest = tmp_path / "student.json"
    manifest.write_text(manifest.read_text().replace('"ngram_buckets": 256', '"ngram_buckets": 255'))
    complaint = r"expected a power of two from 2 to 2,147,483,648 as spec\.ngram_buckets, found 255"
    with pytest.raises(ArtifactError, match=complaint):
        Classifier.load(with_new_checksums(tmp_path))


def test_student_from_before_there_were_ngrams_is_read(tmp_path: Path) -> None:
    student = Student.create(settings_of(vocab_size=300), CORPUS, 16, seed=0)
    student.save(tmp_path / "student")
    manifest = tmp_path / "student" / "student.json"
    saved = json.loads(manifest.read_text())
    for name in ("ngram_size", "ngram_buckets"):
        del saved["spec"][name]
    manifest.write_text(json.dumps(saved))
    assert Classifier.load(with_new_checksums(tmp_path / "student")).logits(TEXTS).shape == (5, 3)
    assert load_network(tmp_path / "student").spec.ngram_size == 0


def test_no_embeddings_can_begin_as_the_teachers_without_any() -> None:
    with pytest.raises(ConfigError, match="embedding_init"):
        settings_of(kind="ngram", embedding_init="teacher")
