import copy
import itertools

import numpy as np
import onnx
import pytest
import torch

from potstill.errors import ArtifactError
from potstill.runtime.session import open_session, run
from potstill.student.network import DistilRNN
from potstill.student.onnx import TOLERANCE, build_model, prove_parity
from tiny_students import tiny_student

SHAPES = list(itertools.product(("rnn", "gru", "lstm"), (False, True), (1, 2, 3), ("last", "mean", "max", "attention")))


def make_student(cell="lstm", bidirectional=True, num_layers=1, pooling="max", **changes) -> DistilRNN:
    shape = {"cell": cell, "bidirectional": bidirectional, "num_layers": num_layers, "pooling": pooling}
    sizes = {"vocab_size": 50, "embedding_size": 7, "num_classes": 3, "padding_id": 2, "dropout": 0.3}
    student = tiny_student(**(shape | sizes | changes))
    with torch.no_grad():  # PyTorch's initial weights are so small that swapped gates hardly show
        for parameter in student.parameters():
            parameter.normal_(std=0.7)
    return student


@pytest.mark.parametrize(("cell", "bidirectional", "num_layers", "pooling"), SHAPES)
def test_every_shape_computes_what_torch_computes(cell, bidirectional, num_layers, pooling):
    student = make_student(cell, bidirectional, num_layers, pooling)
    assert prove_parity(student, build_model(student), seed=1) <= 1e-5


@pytest.mark.parametrize(
    ("cell", "bidirectional", "pooling"),
    [(cell, bidirectional, pooling) for cell, bidirectional, layers, pooling in SHAPES if layers == 1],
)
def test_surprisal_computes_what_torch_computes(cell, bidirectional, pooling):
    student = make_student(cell, bidirectional, pooling=pooling, surprisal_size=6)
    assert prove_parity(student, build_model(student), seed=1) <= 1e-5


def test_one_session_takes_any_batch_size_and_length():
    student = make_student()
    session = open_session(build_model(student))
    for batch, length in [(1, 1), (3, 2), (2, 40), (65, 9)]:
        assert run(session, [[4] * length] * batch, padding_id=2).shape == (batch, 3)
    assert [node.shape for node in session.get_inputs()] == [["batch", "length"], ["batch"]]
    assert [node.type for node in session.get_inputs()] == ["tensor(int64)", "tensor(int32)"]


@pytest.mark.parametrize("changes", [{"num_layers": 2}, {"surprisal_size": 6}])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_padding_changes_nothing_whatever_stands_in_it(pooling, changes):
    session = open_session(build_model(make_student(pooling=pooling, **changes)))
    alone = run(session, [[5, 6, 7]], padding_id=2)
    for padding_id in (2, 31):
        beside_a_longer = run(session, [[5, 6, 7], [8] * 12], padding_id)
        np.testing.assert_allclose(beside_a_longer[:1], alone, atol=1e-6)


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_only_dynamic_axes_and_used_nodes_are_in_the_graph(pooling):
    model = onnx.load_from_string(build_model(make_student(num_layers=3, pooling=pooling)))
    read = {name for node in model.graph.node for name in node.input}
    states_or_final_of_the_top, lower_finals = 1, 2
    unread = [name for node in model.graph.node for name in node.output if name not in read | {"logits"}]
    assert len(unread) == states_or_final_of_the_top + lower_finals
    assert {tensor.name for tensor in model.graph.initializer} <= read


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_surprisal_adds_no_node_that_is_not_used(pooling):
    graph = onnx.load_from_string(build_model(make_student(pooling=pooling, surprisal_size=6))).graph
    read = {name for node in graph.node for name in node.input}
    final_unless_pooled = set() if pooling == "last" else {"LSTM_2_final"}
    assert {name for node in graph.node for name in node.output} - read == {"logits"} | final_unless_pooled
    assert {tensor.name for tensor in graph.initializer} <= read


def test_the_proof_leaves_the_student_as_it_was():
    student = make_student().train()
    prove_parity(student, build_model(student), seed=0)
    assert student.training


def test_the_proof_is_the_same_for_the_same_seed():
    student = make_student()
    model = build_model(student)
    assert prove_parity(student, model, seed=3) == prove_parity(student, model, seed=3)


def test_the_proof_refuses_the_model_of_another_student():
    student = make_student()
    model = build_model(student)
    with torch.no_grad():
        student.head.bias[1] += 1e-3
    with pytest.raises(ArtifactError, match=r"within 0\.0001 expected, 0\.001 found.*\n.*what to do"):
        prove_parity(student, model, seed=0)


def test_large_logits_may_differ_by_as_large_a_share():
    student = make_student()
    with torch.no_grad():
        student.head.weight *= 1e5  # as after a training that went astray
    assert TOLERANCE < prove_parity(student, build_model(student), seed=1) < 1.0
    other = copy.deepcopy(student)
    with torch.no_grad():
        other.head.weight *= 1.001
    with pytest.raises(ArtifactError, match="differs from the student"):
        prove_parity(student, build_model(other), seed=1)


def test_the_proof_refuses_weights_that_are_not_finite():
    student = make_student()
    with torch.no_grad():
        student.head.bias[1] = torch.nan
    with pytest.raises(ArtifactError, match="nan found"):
        prove_parity(student, build_model(student), seed=0)


def test_the_proof_refuses_an_infinite_logit():
    student = make_student()
    with torch.no_grad():
        student.head.bias[0] = torch.inf
    with pytest.raises(ArtifactError, match="weights are finite"):
        prove_parity(student, build_model(make_student()), seed=1)


def test_the_proof_looks_at_the_batches_it_is_given():
    student = make_student()
    model = build_model(student)
    with torch.no_grad():
        student.embedding.weight[7:] += 1.0
    with pytest.raises(ArtifactError, match=r"lengths \[90, 2\]"):
        prove_parity(student, model, seed=0, batches=[(90, 2)])
