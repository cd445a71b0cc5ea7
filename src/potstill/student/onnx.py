"""Students as ONNX graphs.

A graph is written instead of traced. A trace of a recurrent network tends to freeze the batch or the time axis at the
size it saw (pytorch #41774, #49936, #126339); here there is nothing to freeze.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from torch import Tensor, nn

from potstill.config import Cell
from potstill.predict.session import INPUT_IDS, LENGTHS, LOGITS, NGRAM_ROWS, NGRAM_WEIGHTS

if TYPE_CHECKING:
    from potstill.student.ngram import NgramBag
    from potstill.student.rnn import DistilRNN, Surprisal

_OPSET: Final = 18
_IR_VERSION: Final = 8  # the format's version that came with opset 18; the default would shut out older runtimes


_INPUTS: Final = {
    INPUT_IDS: "int64[batch, length]",
    LENGTHS: "int32[batch]",
    NGRAM_ROWS: "int64[batch, ngrams]",
    NGRAM_WEIGHTS: "float[batch, ngrams]",
}
"""The inputs that a graph may have, with their types; it has those that it reads."""


class _Operator(NamedTuple):
    """ONNX's operator for a cell, and for each gate in ONNX's order its place in PyTorch's."""

    name: str
    gates: tuple[int, ...]
    attributes: str = ""


_OPERATORS: Final[dict[Cell, _Operator]] = {
    "rnn": _Operator("RNN", (0,)),
    # PyTorch stacks r, z, n; ONNX z, r, h. PyTorch resets W_hn·h + b_hn, after the matrix product; ONNX's default is to
    # reset h before it.
    "gru": _Operator("GRU", (1, 0, 2), ", linear_before_reset=1"),
    # PyTorch stacks i, f, g, o; ONNX i, o, f, c (its c is PyTorch's g).
    "lstm": _Operator("LSTM", (0, 3, 1, 2)),
}


def add_recurrent(graph: Graph, student: DistilRNN, output: str) -> None:
    """Add a recurrent student, from `input_ids` and `lengths` to its logits, `output`."""
    spec = student.spec
    graph.weights(head_W=student.head.weight, head_b=student.head.bias)
    graph.arrays(zero=0, one=1, time_axis=[0], step_axes=[1, 2], end_axes=[0, 2], nothing=np.float32(0))
    graph.add(
        f"time_first = Transpose <perm = [1, 0]> ({INPUT_IDS})",  # (length, batch)
    )
    graph.rows("embedded", student.embedding, "time_first")  # (length, batch, embedding)
    if spec.pooling != "last" or student.surprisal is not None:
        # True at real tokens, (length, batch, 1): what operators leave behind a text's end is not specified.
        graph.add(
            f"shape = Shape <start = 1, end = 2> ({INPUT_IDS})",
            "length = Squeeze (shape, time_axis)",
            "places = Range (zero, length, one)",
            "steps = Unsqueeze (places, step_axes)",
            f"counts = Cast <to = 7> ({LENGTHS})",
            "ends = Unsqueeze (counts, end_axes)",
            "real = Less (steps, ends)",  # (length, 1, 1) < (1, batch, 1)
        )
    for layer in range(spec.num_layers):
        is_top = layer == spec.num_layers - 1
        inputs = f"joined{layer - 1}" if layer else "embedded"
        _add_layer(
            graph, student, layer, inputs, joined=not is_top or spec.pooling != "last" or bool(student.surprisal)
        )
    _add_pooling(graph, student, spec.num_layers - 1)  # pooled, (batch, state)
    if student.surprisal is None:
        graph.add(f"{output} = Gemm <transB = 1> (pooled, head_W, head_b)")
    else:
        _add_surprisal(graph, student.surprisal)  # evidence, (batch, classes)
        graph.add("plain = Gemm <transB = 1> (pooled, head_W, head_b)", f"{output} = Add (plain, evidence)")


def add_ngrams(graph: Graph, bag: NgramBag, output: str) -> None:
    """Add the logits of a bag of n-grams, from `ngram_rows` and `ngram_weights` to `output`."""
    graph.arrays(weights_axis=[1])
    graph.rows("ngram_vectors", bag.table, NGRAM_ROWS)  # (batch, ngrams, size)
    graph.add(
        f"ngram_row = Unsqueeze ({NGRAM_WEIGHTS}, weights_axis)",  # (batch, 1, ngrams)
        "ngram_sum = MatMul (ngram_row, ngram_vectors)",  # (batch, 1, size)
        "ngram_bag = Squeeze (ngram_sum, weights_axis)",
    )
    graph.weights(ngram_W=bag.head.weight, ngram_b=bag.head.bias)
    graph.add(f"{output} = Gemm <transB = 1> (ngram_bag, ngram_W, ngram_b)")


class Graph:
    """Nodes, in ONNX's text format, and constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[str] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def add(self, *nodes: str) -> None:
        """Add nodes, each after those that it reads."""
        self.nodes += nodes

    def weights(self, **tensors: Tensor) -> None:
        """Store weights, by the names that nodes give them."""
        self.constants |= {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}

    def rows(self, output: str, table: nn.Embedding, ids: str) -> None:
        """Look up rows of a table, which is stored in half precision where that loses nothing (see `round_tables`)."""
        weight = table.weight.detach().cpu()
        half, name = weight.half(), f"{output}_table"
        if torch.equal(half.to(weight.dtype), weight):
            self.constants[name] = half.numpy()
            self.add(f"{output}_half = Gather ({name}, {ids})", f"{output} = Cast <to = 1> ({output}_half)")
        else:
            self.weights(**{name: weight})
            self.add(f"{output} = Gather ({name}, {ids})")

    def arrays(self, **values: Any) -> None:
        """Store floats as they are, and shapes and lists of axes."""
        for name, value in values.items():
            self.constants[name] = np.asarray(value, None if isinstance(value, np.floating) else np.int64)

    def serialise(self, num_classes: int) -> bytes:
        """Write the graph, whose nodes make `logits`, as an ONNX model; see `Network.to_onnx`."""
        nodes = "\n".join(self.nodes)
        inputs = ", ".join(f"{kind} {name}" for name, kind in _INPUTS.items() if name in nodes)
        model = parser.parse_model(
            f'<ir_version: {_IR_VERSION}, opset_import: ["" : {_OPSET}], producer_name: "potstill">\n'
            f"student ({inputs}) => (float[batch, {num_classes}] {LOGITS}) {{\n{nodes}\n}}"
        )
        for node in model.graph.node:
            node.name = node.output[0]
        read = {name for node in model.graph.node for name in node.input}
        constants = {name: value for name, value in self.constants.items() if name in read}
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
        onnx.checker.check_model(model, full_check=True)
        serialised: bytes = model.SerializeToString()
        return serialised


def _add_layer(graph: Graph, student: DistilRNN, layer: int, inputs: str, *, joined: bool) -> None:
    """Add one recurrent layer on `inputs`, (length, batch, features).

    It makes `states`, (length, directions, batch, hidden), and `final`, (directions, batch, hidden): unlike PyTorch,
    ONNX keeps the directions apart. With `joined` it makes `joined` of the states, (length, batch, state).
    """
    spec, operator = student.spec, _OPERATORS[student.spec.cell]
    suffixes = [f"l{layer}", f"l{layer}_reverse"] if spec.bidirectional else [f"l{layer}"]

    def stack(*kinds: str) -> Tensor:
        """The parameters of these kinds, one after the other, for each direction: (directions, …)."""
        rows = [
            [getattr(student.recurrence, f"{kind}_{suffix}").chunk(len(operator.gates)) for kind in kinds]
            for suffix in suffixes
        ]
        return torch.stack([torch.cat([gates[place] for gates in row for place in operator.gates]) for row in rows])

    graph.weights(
        **{
            f"layer{layer}_W": stack("weight_ih"),  # (directions, gates * hidden, features)
            f"layer{layer}_R": stack("weight_hh"),  # (directions, gates * hidden, hidden)
            f"layer{layer}_B": stack("bias_ih", "bias_hh"),  # (directions, 2 * gates * hidden)
        }
    )
    direction = "bidirectional" if spec.bidirectional else "forward"
    graph.add(
        f"states{layer}, final{layer} = {operator.name}"
        f' <hidden_size = {spec.hidden_size}, direction = "{direction}"{operator.attributes}>'
        f" ({inputs}, layer{layer}_W, layer{layer}_R, layer{layer}_B, {LENGTHS})"
    )
    if joined:
        graph.arrays(states_shape=[0, 0, spec.state_size])  # 0: as it is
        graph.add(
            f"turned{layer} = Transpose <perm = [0, 2, 1, 3]> (states{layer})",  # (length, batch, directions, hidden)
            f"joined{layer} = Reshape (turned{layer}, states_shape)",
        )


def _add_pooling(graph: Graph, student: DistilRNN, layer: int) -> None:
    """Reduce the states of the top layer to `pooled`, (batch, state)."""
    if student.spec.pooling == "last":
        graph.arrays(final_shape=[0, student.spec.state_size])
        graph.add(
            f"turned = Transpose <perm = [1, 0, 2]> (final{layer})",  # (batch, directions, hidden)
            "pooled = Reshape (turned, final_shape)",
        )
    elif student.spec.pooling == "max":
        graph.arrays(lowest=np.float32(-np.inf))
        graph.add(
            f"masked = Where (real, joined{layer}, lowest)",
            "pooled = ReduceMax <keepdims = 0> (masked, time_axis)",
        )
    else:
        graph.arrays(count_axis=[1])
        graph.add(
            f"masked = Where (real, joined{layer}, nothing)",
            "total = ReduceSum <keepdims = 0> (masked, time_axis)",
            f"floats = Cast <to = 1> ({LENGTHS})",
            "number = Unsqueeze (floats, count_axis)",
            "pooled = Div (total, number)",
        )


def _add_surprisal(graph: Graph, surprisal: Surprisal) -> None:
    """Compare each token with what was expected in its place: `evidence`, (batch, classes)."""
    maps = [module for module in surprisal.next_token_head.maps if isinstance(module, nn.Linear)]
    graph.arrays(state_axis=[2])
    for direction, guess in enumerate(maps):
        # From left to right a token is expected by the state before it, from right to left by the one behind it, which
        # for the last one lies in the padding.
        shift = [1, 0, 0, -1, 0, 0] if direction == 0 else [-1, 0, 0, 1, 0, 0]
        name, size = f"direction{direction}", guess.in_features
        graph.arrays(**{f"{name}_start": [direction * size], f"{name}_end": [(direction + 1) * size]})
        graph.arrays(**{f"{name}_shift": shift})
        graph.weights(**{f"{name}_W": guess.weight.T, f"{name}_b": guess.bias})
        graph.add(
            f"{name}_part = Slice (joined0, {name}_start, {name}_end, state_axis)",
            f"{name}_read = Where (real, {name}_part, nothing)",
            f"{name}_shifted = Pad ({name}_read, {name}_shift)",
            f"{name}_product = MatMul ({name}_shifted, {name}_W)",
            f"{name}_expected = Add ({name}_product, {name}_b)",
            f"{name}_agreement = Mul (embedded, {name}_expected)",
        )
    features = ", ".join(f"direction{n}_agreement" for n in range(len(maps)))
    compare, head = surprisal.compare, surprisal.head
    graph.weights(compare_W=compare.weight.T, compare_b=compare.bias, evidence_W=head.weight.T)
    graph.add(
        f"features = Concat <axis = 2> ({features}, embedded)",
        "compared_product = MatMul (features, compare_W)",
        "compared_sum = Add (compared_product, compare_b)",
        "compared = Relu (compared_sum)",  # (length, batch, size)
        "compared_real = Where (real, compared, nothing)",
        "strongest = ReduceMax <keepdims = 0> (compared_real, time_axis)",  # (batch, size)
        "evidence = MatMul (strongest, evidence_W)",
    )
