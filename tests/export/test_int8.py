import itertools
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from potstill.data import Examples
from potstill.export import int8
from potstill.export.int8 import Trial, compare, quantise
from potstill.runtime import Classifier
from potstill.runtime.directory import Manifest
from potstill.runtime.session import EXTERNAL, open_session, run
from potstill.runtime.words import WordEncoder
from potstill.student.model import train_vocabulary
from potstill.student.network import DistilRNN
from potstill.student.onnx import build_model
from tiny_students import tiny_student

SHAPES = list(itertools.product(("rnn", "gru", "lstm"), ("last", "max", "attention")))


def make_student(cell="lstm", pooling="max", **changes) -> DistilRNN:
    sizes = {"vocab_size": 300, "embedding_size": 32, "hidden_size": 24, "num_layers": 2}
    return tiny_student(cell=cell, pooling=pooling, **(sizes | changes)).eval()


@pytest.mark.parametrize(("cell", "pooling"), SHAPES)
def test_every_shape_has_a_smaller_variant_that_computes_nearly_the_same(cell, pooling, caplog):
    graph = build_model(make_student(cell, pooling))
    reduced = quantise(graph)
    assert len(reduced) < 0.8 * len(graph)
    assert EXTERNAL not in reduced  # else it would be refused on loading
    kinds = {tensor.data_type for tensor in onnx.load_from_string(reduced).graph.initializer}
    assert TensorProto.UINT8 in kinds
    assert TensorProto.INT8 not in kinds  # its products saturate where the processor has no VNNI
    sequences = [[5, 6, 7], [8] * 12, [9]]
    exact, found = (run(open_session(content, threads=1), sequences, padding_id=0) for content in (graph, reduced))
    assert 0 < np.abs(exact - found).max() < 0.02
    assert not caplog.records


def test_what_surprisal_compares_shrinks_too():
    graph = build_model(make_student(num_layers=1, surprisal_size=256))
    reduced = quantise(graph)
    assert len(reduced) < 0.4 * len(graph)
    exact, found = (
        run(open_session(content, threads=1), [[5, 6, 7], [9]], padding_id=0) for content in (graph, reduced)
    )
    assert np.abs(exact - found).max() < 0.02


def trial(**changes):
    values = {"bytes_float32": 4000, "bytes_int8": 1000, "mcc_float32": 0.4, "mcc_int8": 0.4, "speed": 2.0}
    return Trial(**(values | changes), agreement=1.0, texts=100)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"mcc_int8": 0.392, "speed": 0.95}, None),
        ({"bytes_int8": 4000}, None),
        ({"mcc_int8": 0.389}, "MCC"),
        ({"mcc_int8": 0.411}, "MCC"),
        ({"mcc_int8": float("nan")}, "MCC"),
        ({"speed": 0.8}, "slower"),
        ({"bytes_int8": 5000}, "larger"),
        ({"bytes_int8": 3900, "speed": 1.05}, "neither"),
    ],
)
def test_what_it_has_to_be_to_be_kept(changes, problem):
    found = trial(**changes).problem
    assert found is None if problem is None else problem in found


def test_both_are_scored_as_the_runtime_answers(monkeypatch):
    texts = ("the cat sat", "a dog ran", "birds sing", "wet grass")
    encoder = WordEncoder(train_vocabulary(texts, 300), 16)
    manifest = Manifest({"padding_id": 0}, ("no", "yes"), 16)
    network = make_student()
    graphs = [build_model(network)]
    shares = Classifier(open_session(graphs[0], 1), encoder, manifest).predict_proba(texts)[:, 1]
    manifest = replace(manifest, threshold=float(np.median(shares)))
    with torch.no_grad():
        network.head.bias[1] += 100.0  # always the second class
    graphs.append(build_model(network))
    first, second = (Classifier(open_session(graph, 1), encoder, manifest) for graph in graphs)
    labels = (first.predict(texts) == "yes").astype(np.int64)
    seconds = {first: iter([1.0, 100.0, 3.0]), second: iter([1.0, 1.0, 2.0])}
    monkeypatch.setattr(int8, "_seconds", lambda classifier, _: next(seconds[classifier]))
    found = compare(first, second, (10, 5), Examples(texts, labels), rounds=3)
    assert (found.mcc_float32, found.mcc_int8) == (1.0, 0.0)
    assert (found.bytes_float32, found.bytes_int8, found.texts) == (10, 5, 4)
    assert found.agreement == 0.5
    assert found.speed == 1.5  # one disturbed round does not count
    assert "MCC" in found.describe()
