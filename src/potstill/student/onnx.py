"""The student as an ONNX graph, and the proof that it computes what PyTorch computes.

The graph is written node by node instead of traced. A trace of a recurrent network tends to freeze the batch or the
time axis at the size it saw (pytorch #41774, #49936, #126339); here there is nothing to freeze.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from potstill.config import Cell
from potstill.errors import ArtifactError
from potstill.runtime.session import INPUT_IDS, LENGTHS, LOGITS, open_session, pad, run
from potstill.student.network import DistilRNN, Surprisal, WordAttention

TOLERANCE: Final = 1e-4
"""Largest difference of a logit that passes, of logits beyond 1 its share of the largest: far above float32's rounding,
far below what changes a prediction."""

_OPSET: Final = 18
_IR_VERSION: Final = 8  # the format's version that came with opset 18; the default would shut out older runtimes

_OPERATORS: Final[dict[Cell, str]] = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}

_GATES: Final[dict[Cell, tuple[int, ...]]] = {
    "rnn": (0,),
    "gru": (1, 0, 2),  # PyTorch stacks r, z, n; ONNX z, r, h
    "lstm": (0, 3, 1, 2),  # PyTorch stacks i, f, g, o; ONNX i, o, f, c (its c is PyTorch's g)
}
"""For each gate in ONNX's order, its place in PyTorch's (operator specification; `torch.nn.GRU`, `torch.nn.LSTM`)."""

Batches = Sequence[Sequence[int]]
"""Lengths of the texts of each batch."""

PROOF_BATCHES: Final[Batches] = ((1,), (7,), (4, 4, 4), (1, 9, 3), (12, 1, 1, 5, 30), tuple(range(1, 33)))
"""What the proof computes: one text, one token, equal lengths, ragged, sorted and not."""


def build_model(student: DistilRNN) -> bytes:
    """Write the student as a serialised ONNX model.

    Inputs: `input_ids`, int64 (batch, length), padded on the right with any valid id, and `lengths`, int32 (batch,),
    the numbers of real tokens, at least 1 each. Output: `logits`, float32 (batch, classes).
    """
    spec = student.spec
    graph = _Graph()
    time_first = graph.add("Transpose", INPUT_IDS, perm=[1, 0])  # (length, batch)
    embedded = features = graph.add("Gather", graph.weights("embedding", student.embedding.weight), time_first)
    for layer in range(spec.num_layers - 1):
        states, _ = _add_layer(graph, student, layer, features)
        features = _join_states(graph, states, spec.state_size)
    states, final = _add_layer(graph, student, spec.num_layers - 1, features)
    if spec.pooling != "last" or student.surprisal is not None:
        states = _join_states(graph, states, spec.state_size)
    if spec.pooling == "last":
        pooled = _join_final(graph, final, spec.state_size)  # (batch, state)
    else:
        pooled = _add_pooling(graph, student, states)  # (batch, state)
    head = (graph.weights("head.weight", student.head.weight), graph.weights("head.bias", student.head.bias))
    if student.surprisal is None:
        graph.add("Gemm", pooled, *head, output=LOGITS, transB=1)
    else:
        evidence = _add_surprisal(graph, student.surprisal, embedded, states)
        graph.add("Add", graph.add("Gemm", pooled, *head, transB=1), evidence, output=LOGITS)

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "student",
            inputs=[
                helper.make_tensor_value_info(INPUT_IDS, TensorProto.INT64, ["batch", "length"]),
                helper.make_tensor_value_info(LENGTHS, TensorProto.INT32, ["batch"]),
            ],
            outputs=[helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", spec.num_classes])],
            initializer=graph.initializers,
        ),
        producer_name="potstill",
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString()
    return serialised


def prove_parity(student: DistilRNN, model_bytes: bytes, seed: int, batches: Batches = PROOF_BATCHES) -> float:
    """Compare the ONNX model with the student on batches of random ids.

    Args:
        student: What the model was made from.
        model_bytes: The serialised model.
        seed: Draws the ids.
        batches: Lengths of the texts of each batch.

    Returns:
        The largest absolute difference of a logit.

    Raises:
        ArtifactError: It is above `TOLERANCE`, or a logit is not finite.
    """
    reference = copy.deepcopy(student).cpu().float().eval()  # the caller's may train on, on another device
    session = open_session(model_bytes, threads=1)
    generator = np.random.default_rng(seed)
    worst = 0.0
    for lengths in batches:
        sequences = [generator.integers(student.spec.vocab_size, size=length).tolist() for length in lengths]
        expected = _torch_logits(reference, sequences)
        found = run(session, sequences, student.spec.padding_id)
        difference = float(np.abs(expected - found).max())
        allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if not (np.isfinite(expected).all() and difference <= allowed):  # also where one is NaN
            raise ArtifactError(
                f"the ONNX model differs from the student it was made from: logits within {allowed:.2g} expected, "
                f"{difference:.2g} found on a batch of lengths {list(lengths)[:40]}\n"
                "  what to do: check that the student's weights are finite; if they are, please report this with the "
                "versions of torch, onnx and onnxruntime"
            )
        worst = max(worst, difference)
    return worst


class _Graph:
    """Nodes and weights of a graph under construction; values are named by the node that makes them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._mask: str | None = None

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        name = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def add_recurrence(self, operator: str, *inputs: str, **attributes: Any) -> tuple[str, str]:
        """Append a recurrent node; return the names of all its states and of its last ones (`Y`, `Y_h`)."""
        name = f"{operator}_{len(self.nodes)}"
        outputs = (f"{name}_states", f"{name}_final")
        self.nodes.append(helper.make_node(operator, list(inputs), list(outputs), name=name, **attributes))
        return outputs

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Store an array, once for each name; return the name."""
        if all(stored.name != name for stored in self.initializers):
            self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def weights(self, name: str, weight: Tensor) -> str:
        """Store a parameter as float32; return its name."""
        return self.constant(name, weight.detach().float().cpu().numpy())

    def integers(self, name: str, *values: int) -> str:
        """Store a shape or a list of axes; return its name."""
        return self.constant(name, np.array(values, dtype=np.int64))

    def fill(self, values: str, filler: float) -> str:
        """Put `filler` behind every text's end in (length, batch, …), where the specification leaves open what stands.

        Returns:
            The result's name.
        """
        self._mask = self._mask or self._real_places()
        return self.add("Where", self._mask, values, self.constant(f"filler{filler}", np.array(filler, np.float32)))

    def _real_places(self) -> str:
        """Say where there are tokens, (length, batch, 1)."""
        length = self.add("Squeeze", self.add("Shape", INPUT_IDS, start=1, end=2), self.integers("time_axis", 0))
        zero, one = self.constant("zero", np.array(0, np.int64)), self.constant("one", np.array(1, np.int64))
        steps = self.add("Unsqueeze", self.add("Range", zero, length, one), self.integers("step_axes", 1, 2))
        ends = self.add("Unsqueeze", self.add("Cast", LENGTHS, to=TensorProto.INT64), self.integers("end_axes", 0, 2))
        return self.add("Less", steps, ends)  # (length, 1, 1) < (1, batch, 1)

    def over_time(self, reduction: str, values: str) -> str:
        """Reduce (length, batch, …) over the first axis."""
        return self.add(reduction, values, self.integers("time_axis", 0), keepdims=0)


def _add_layer(graph: _Graph, student: DistilRNN, layer: int, inputs: str) -> tuple[str, str]:
    """Add one recurrent layer on `inputs`, (length, batch, features).

    Returns:
        The names of all its states, (length, directions, batch, hidden), and of its last ones, (directions, batch,
        hidden). Unlike PyTorch, ONNX keeps the directions apart.
    """
    spec = student.spec
    suffixes = [f"l{layer}", f"l{layer}_reverse"] if spec.bidirectional else [f"l{layer}"]

    def stack(*kinds: str) -> Tensor:
        """The parameters of these kinds, one after the other, for each direction: (directions, …)."""
        return torch.stack(
            [
                torch.cat([_reorder(getattr(student.recurrence, f"{kind}_{suffix}"), spec.cell) for kind in kinds])
                for suffix in suffixes
            ]
        )

    return graph.add_recurrence(
        _OPERATORS[spec.cell],
        inputs,
        graph.weights(f"layer{layer}.W", stack("weight_ih")),  # (directions, gates * hidden, features)
        graph.weights(f"layer{layer}.R", stack("weight_hh")),  # (directions, gates * hidden, hidden)
        graph.weights(f"layer{layer}.B", stack("bias_ih", "bias_hh")),  # (directions, 2 * gates * hidden)
        LENGTHS,
        hidden_size=spec.hidden_size,
        direction="bidirectional" if spec.bidirectional else "forward",
        # PyTorch's GRU resets W_hn·h + b_hn, after the matrix product; ONNX's default resets h before it.
        **({"linear_before_reset": 1} if spec.cell == "gru" else {}),
    )


def _join_states(graph: _Graph, states: str, state_size: int) -> str:
    """Concatenate the directions of a layer's states: (length, directions, batch, hidden) to (length, batch, state)."""
    batch_first = graph.add("Transpose", states, perm=[0, 2, 1, 3])  # (length, batch, directions, hidden)
    return graph.add("Reshape", batch_first, graph.integers(f"{states}.shape", 0, 0, state_size))  # 0: as it is


def _join_final(graph: _Graph, final: str, state_size: int) -> str:
    """Concatenate the directions of a layer's last states: (directions, batch, hidden) to (batch, state)."""
    batch_first = graph.add("Transpose", final, perm=[1, 0, 2])  # (batch, directions, hidden)
    return graph.add("Reshape", batch_first, graph.integers(f"{final}.shape", 0, state_size))


def _reorder(parameter: Tensor, cell: Cell) -> Tensor:
    """Bring the gates, stacked along the first axis, from PyTorch's order into ONNX's."""
    gates = parameter.detach().chunk(len(_GATES[cell]))
    return torch.cat([gates[place] for place in _GATES[cell]])


def _add_pooling(graph: _Graph, student: DistilRNN, states: str) -> str:
    """Reduce (length, batch, state) over the real tokens to (batch, state)."""
    if student.spec.pooling == "max":
        return graph.over_time("ReduceMax", graph.fill(states, -np.inf))
    states = graph.fill(states, 0.0)
    if student.attention is not None:
        weighted = graph.add("Mul", states, _add_attention(graph, student.attention, states))
        return graph.over_time("ReduceSum", weighted)
    total = graph.over_time("ReduceSum", states)
    count = graph.add("Cast", graph.add("Unsqueeze", LENGTHS, graph.integers("count_axis", 1)), to=TensorProto.FLOAT)
    return graph.add("Div", total, count)


def _add_attention(graph: _Graph, attention: WordAttention, states: str) -> str:
    """Weigh the tokens' states, (length, batch, state): (length, batch, 1), 0 behind a text's end."""
    turned = graph.add("MatMul", states, graph.weights("attention.W", attention.hidden.weight.T))
    turned = graph.add("Add", turned, graph.weights("attention.b", attention.hidden.bias))
    context = graph.weights("attention.c", attention.context.weight.T)  # (state, 1)
    scores = graph.add("MatMul", graph.add("Tanh", turned), context)  # (length, batch, 1)
    return graph.add("Softmax", graph.fill(scores, -np.inf), axis=0)


def _add_surprisal(graph: _Graph, surprisal: Surprisal, embedded: str, states: str) -> str:
    """Compare tokens, (length, batch, embedding), with what was expected of the states: evidence, (batch, classes)."""
    maps = [module for module in surprisal.next_token_head.maps if isinstance(module, nn.Linear)]
    bounds = [graph.integers(f"direction{n}.start", n * maps[0].in_features) for n in range(len(maps) + 1)]
    state_axis = graph.integers("state_axis", 2)
    features = []
    for direction, guess in enumerate(maps):
        read = graph.add("Slice", states, bounds[direction], bounds[direction + 1], state_axis)
        # From left to right a token is expected by the state before it, from right to left by the one behind it, which
        # for the last one lies in the padding.
        read = read if direction == 0 else graph.fill(read, 0.0)
        shift = (1, 0, 0, -1, 0, 0) if direction == 0 else (-1, 0, 0, 1, 0, 0)
        read = graph.add("Pad", read, graph.integers(f"direction{direction}.shift", *shift))
        expected = graph.add("MatMul", read, graph.weights(f"next_token{direction}.W", guess.weight.T))
        expected = graph.add("Add", expected, graph.weights(f"next_token{direction}.b", guess.bias))
        features.append(graph.add("Mul", embedded, expected))
    compared = graph.add("Concat", *features, embedded, axis=2)
    compared = graph.add("MatMul", compared, graph.weights("surprisal.A", surprisal.compare.weight.T))
    compared = graph.add("Relu", graph.add("Add", compared, graph.weights("surprisal.a", surprisal.compare.bias)))
    strongest = graph.over_time("ReduceMax", graph.fill(compared, 0.0))  # (batch, size)
    return graph.add("MatMul", strongest, graph.weights("surprisal.B", surprisal.head.weight.T))


def _torch_logits(student: DistilRNN, sequences: list[list[int]]) -> npt.NDArray[np.float32]:
    """Classify on the CPU with PyTorch; returns (batch, classes)."""
    input_ids, lengths = pad(sequences, student.spec.padding_id)
    mask = np.arange(input_ids.shape[1]) < lengths[:, None]  # (batch, length)
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = student(torch.from_numpy(input_ids), torch.from_numpy(mask)).numpy()
    return logits
