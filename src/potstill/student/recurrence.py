"""What recurrent students are made of: their shape, the recurrence over padded texts, next-token guesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from potstill.config import Cell, Pooling
from potstill.lora.dropout import dropout
from potstill.student.base import NetworkSpec

RECURRENCES: Final[dict[Cell, type[nn.RNN | nn.GRU | nn.LSTM]]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}

_FUNCTIONS: Final[dict[type[nn.Module], Callable[..., Any]]] = {
    nn.RNN: torch.rnn_tanh,
    nn.GRU: torch.gru,
    nn.LSTM: torch.lstm,
}
_WEIGHTS: Final = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""What PyTorch's recurrences call theirs, in the order in which the functions take them."""


@dataclass(frozen=True, kw_only=True)
class RNNSpec(NetworkSpec):
    """What decides the shape of a recurrent student; `config.RNNConfig` explains the fields."""

    cell: Cell
    embedding_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    pooling: Pooling
    dropout: float
    surprisal_size: int = 0

    @property
    def directions(self) -> int:
        """How often the text is read: from left to right, and, where `bidirectional`, from right to left too."""
        return 2 if self.bidirectional else 1

    @property
    def state_size(self) -> int:
        """Width of the pooled state: the hidden size, twice that when both directions are read."""
        return self.hidden_size * self.directions


class NextTokenHead(nn.Module):
    """What each direction of a recurrence expects at a token, from what it has read before it: W·h + b.

    h is the direction's state there, 0 before the first token. The guess is an embedding: the more it agrees with a
    token's, the more probable is that token (see `pretraining.BidirectionalLM`). W and b, in `maps`, begin as 0.
    """

    def __init__(self, spec: RNNSpec) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(spec.hidden_size, spec.embedding_size) for _ in range(spec.directions))
        for parameter in self.maps.parameters():
            nn.init.zeros_(parameter)

    def forward(self, states: Tensor) -> Tensor:
        """Map states, (batch, length, state), 0 in padding, to guesses, (batch, length, directions, embedding)."""
        shifts = ((1, -1), (-1, 1))
        parts = states.chunk(len(self.maps), dim=2)
        read = [pad(part, (0, 0, *shift)) for part, shift in zip(parts, shifts, strict=False)]
        return torch.stack([guess(part) for guess, part in zip(self.maps, read, strict=True)], dim=2)


def recur(recurrence: nn.RNN | nn.GRU | nn.LSTM, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Run a recurrence, with the batch first, over texts, (batch, length, features), and their lengths, (batch,).

    Returns:
        The top layer's states, (batch, length, state), 0 in padded places, and each layer's and direction's hidden
        state after its last real token, (layers * directions, batch, hidden).
    """
    if embedded.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not has_bfloat16_lstm():
        with torch.autocast("cpu", enabled=False):
            return recur(recurrence, embedded.float(), lengths)
    if bool((lengths == embedded.shape[1]).all()):  # nothing is padded
        states, final = recurrence(embedded)
    elif embedded.device.type == "cpu":
        return _recur_padded(recurrence, embedded, lengths)
    else:
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed_states, final = recurrence(packed)
        states, _ = pad_packed_sequence(packed_states, batch_first=True, total_length=embedded.shape[1])
    return states, final[0] if isinstance(recurrence, nn.LSTM) else final


def has_bfloat16_lstm() -> bool:
    """Say whether this processor has oneDNN's LSTM in bfloat16: autocast takes it unchecked, and without it raises."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return not has_onednn or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _recur_padded(recurrence: nn.RNN | nn.GRU | nn.LSTM, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Read the padding as well, and ignore what it leads to: arguments and results are those of `recur`.

    For packed sequences PyTorch calls small operations step by step on a CPU; whole batches oneDNN takes at once.
    Padding behind a text can't change what was read before it. For the direction from right to left texts are turned
    round, so that the padding comes last there too.
    """
    batch, length = embedded.shape[:2]
    rows, places = torch.arange(batch), torch.arange(length)
    back = lengths.unsqueeze(1) - 1 - places
    turned = (torch.where(back >= 0, back, places) + length * rows.unsqueeze(1)).flatten()
    function = _FUNCTIONS[type(recurrence)]
    start = embedded.new_zeros(1, batch, recurrence.hidden_size)
    hidden = (start, start) if isinstance(recurrence, nn.LSTM) else start
    states, finals = embedded, []
    for layer in range(recurrence.num_layers):
        if layer > 0:
            states = dropout(states, recurrence.dropout, recurrence.training)
        read = []
        for suffix in ("", "_reverse")[: 1 + recurrence.bidirectional]:
            weights = [getattr(recurrence, f"{name}_l{layer}{suffix}") for name in _WEIGHTS]
            given = _rearranged(states, turned) if suffix else states
            # With biases; one layer, without dropout; in training or not; one direction; the batch first.
            seen = function(given, hidden, weights, True, 1, 0.0, recurrence.training, False, True)[0]
            finals.append(seen[rows, lengths - 1])
            read.append(_rearranged(seen, turned) if suffix else seen)
        states = torch.cat(read, dim=2)
    return states.masked_fill((places >= lengths.unsqueeze(1)).unsqueeze(2), 0.0), torch.stack(finals)


def _rearranged(states: Tensor, order: Tensor) -> Tensor:
    """Put the tokens of a batch, (batch, length, features), into another `order`, (batch * length,)."""
    return states.flatten(0, 1).index_select(0, order).view(states.shape)
