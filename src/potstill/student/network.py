"""The recurrent classifier that is distilled: embedding, recurrence, pooling, linear map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Cell = Literal["rnn", "gru", "lstm"]
Pooling = Literal["last", "mean", "max"]

_RECURRENCES: dict[Cell, type[nn.RNN | nn.GRU | nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@dataclass(frozen=True)
class StudentSpec:
    """Everything that decides a student's shape; saved with its weights. `config.StudentConfig` explains the fields."""

    cell: Cell
    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    pooling: Pooling
    dropout: float
    num_classes: int
    padding_id: int

    @property
    def state_size(self) -> int:
        """Width of the pooled state: the hidden size, twice that when both directions are read."""
        return self.hidden_size * (2 if self.bidirectional else 1)


class DistilRNN(nn.Module):
    """A recurrent classifier of a few million parameters.

    With `cell="rnn"`, one direction, one layer and `pooling="last"` it is the reference experiment's network:
    embedding, Elman recurrence (tanh), the hidden state after the last real token, linear map.
    """

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.vocab_size, spec.embedding_size, padding_idx=spec.padding_id)
        self.recurrence = _RECURRENCES[spec.cell](
            spec.embedding_size,
            spec.hidden_size,
            num_layers=spec.num_layers,
            bidirectional=spec.bidirectional,
            batch_first=True,
            dropout=spec.dropout if spec.num_layers > 1 else 0.0,  # PyTorch applies it between layers only
        )
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(spec.state_size, spec.num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Classify a batch of token sequences.

        Args:
            input_ids: Token ids, (batch, length); whatever stands in padded places is ignored.
            attention_mask: True or 1 at real tokens, (batch, length); the padding is on the right.

        Returns:
            Logits, (batch, classes).
        """
        lengths = attention_mask.sum(dim=1)  # (batch,)
        embedded = self.dropout(self.embedding(input_ids))  # (batch, length, embedding)
        states, last = self._recur(embedded, lengths)
        pooled = last if self.spec.pooling == "last" else self._pool(states, attention_mask.bool())
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def _recur(self, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return all states of the top layer, (batch, length, state), and its last ones, (batch, state)."""
        if bool((lengths == embedded.shape[1]).all()):  # nothing is padded: packing would only cost time
            states, final = self.recurrence(embedded)
        else:
            packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
            packed_states, final = self.recurrence(packed)
            states, _ = pad_packed_sequence(packed_states, batch_first=True, total_length=embedded.shape[1])
        hidden = final[0] if self.spec.cell == "lstm" else final  # (layers * directions, batch, hidden)
        directions = 2 if self.spec.bidirectional else 1
        return states, torch.cat(tuple(hidden[-directions:]), dim=1)

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Reduce (batch, length, state) over the real tokens to (batch, state)."""
        mask = mask.unsqueeze(2)  # (batch, length, 1)
        if self.spec.pooling == "max":
            return states.masked_fill(~mask, -torch.inf).amax(dim=1)
        return states.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)
