import copy
import itertools

import numpy as np
import pytest
import torch

from potstill.errors import ArtifactError
from potstill.predict.session import open_session, run
from potstill.student.parity import TOLERANCE, prove_parity
from potstill.student.rnn import DistilRNN
from tiny_students import tiny_student

SHAPES = list(itertools.product(("rnn", "gru", "lstm"), (False, True), (1, 2, 3), ("last", "mean", "max")))


def make_student(cell="lstm", bidirectional=True, num_layers=1, pooling="max", **changes) -> DistilRNN:
    shape = {"cell": cell, "bidirectional": bidirectional, "num_layers": num_layers, "pooling": pooling}
    sizes = {"vocab_size": 50, "embedding_size": 7, "num_classes": 3, "pad_token_id": 2, "dropout": 0.3}
    student = tiny_student(**(shape | sizes | changes))
    with torch.no_grad():  # PyTorch's initial weights are so small that swapped gates hardly show
        for parameter in student.parameters():
            parameter.normal_(std=0.7)
    return student


@pytest.mark.parametrize("surprisal_size", [0, 6])
@pytest.mark.parametrize(("cell", "bidirectional", "num_layers", "pooling"), SHAPES)
def test_onnx_parity_of_every_shape(cell, bidirectional, num_layers, pooling, surprisal_size):
    if surprisal_size and num_layers > 1:
        pytest.skip("surprisal is for one layer")
    student = make_student(cell, bidirectional, num_layers, pooling, surprisal_size=surprisal_size)
    assert prove_parity(student, student.to_onnx(), seed=1) <= 1e-5


def test_one_session_takes_any_batch_size_and_length():
    student = make_student()
    session = open_session(student.to_onnx())
    for batch, length in [(1, 1), (3, 2), (2, 40), (65, 9)]:
        assert run(session, [[4] * length] * batch, pad_token_id=2).shape == (batch, 3)
    assert [node.shape for node in session.get_inputs()] == [["batch", "length"], ["batch"]]
    assert [node.type for node in session.get_inputs()] == ["tensor(int64)", "tensor(int32)"]


@pytest.mark.parametrize("changes", [{"num_layers": 2}, {"surprisal_size": 6}])
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_padding_ids_make_no_difference(pooling, changes):
    session = open_session(make_student(pooling=pooling, **changes).to_onnx())
    alone = run(session, [[5, 6, 7]], pad_token_id=2)
    for pad_token_id in (2, 31):
        beside_a_longer = run(session, [[5, 6, 7], [8] * 12], pad_token_id)
        np.testing.assert_allclose(beside_a_longer[:1], alone, atol=1e-6)


def test_the_proof_leaves_the_student_as_it_was_and_repeats_itself():
    student = make_student().train()
    model = student.to_onnx()
    assert prove_parity(student, model, seed=3) == prove_parity(student, model, seed=3)
    assert student.training


def test_the_proof_refuses_the_model_of_another_student():
    student = make_student()
    model = student.to_onnx()
    with torch.no_grad():
        student.head.bias[1] += 1e-3
    with pytest.raises(ArtifactError, match=r"within 0\.0001 expected, 0\.001 found.*\n.*what to do"):
        prove_parity(student, model, seed=0)


def test_the_tolerance_is_relative_for_large_logits():
    student = make_student()
    with torch.no_grad():
        student.head.weight *= 1e5  # as after a training that went astray
    assert TOLERANCE < prove_parity(student, student.to_onnx(), seed=1) < 1.0
    other = copy.deepcopy(student)
    with torch.no_grad():
        other.head.weight *= 1.001
    with pytest.raises(ArtifactError, match="differs from the student"):
        prove_parity(student, other.to_onnx(), seed=1)


@pytest.mark.parametrize(("bias", "complaint"), [(torch.nan, "nan found"), (torch.inf, "weights are finite")])
def test_the_proof_refuses_logits_that_are_not_finite(bias, complaint):
    student = make_student()
    with torch.no_grad():
        student.head.bias[1] = bias
    with pytest.raises(ArtifactError, match=complaint):
        prove_parity(student, student.to_onnx(), seed=0)


def test_the_proof_computes_the_batches_it_is_given():
    student = make_student()
    model = student.to_onnx()
    with torch.no_grad():
        student.embedding.weight[7:] += 1.0
    with pytest.raises(ArtifactError, match=r"lengths \[90, 2\]"):
        prove_parity(student, model, seed=0, batches=[(90, 2)])
