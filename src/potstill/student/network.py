"""The recurrent classifier that is distilled: embedding, recurrence, pooling, linear map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Cell = Literal["rnn", "gru", "lstm"]
Pooling = Literal["last", "mean", "max", "attention"]

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
    word_dropout: float = 0.0  # students that were saved before there was any have none

    @property
    def state_size(self) -> int:
        """Width of the pooled state: the hidden size, twice that when both directions are read."""
        return self.hidden_size * (2 if self.bidirectional else 1)


class WordAttention(nn.Module):
    """A mean of the tokens' states with learnt weights (Yang et al. 2016, "Hierarchical Attention Networks", eq. 5–7).

        u_t = tanh(W·h_t + b),  a = softmax(u·c) over the real tokens,  s = Σ a_t·h_t

    Attributes:
        hidden: W and b, (state, state).
        context: c, (1, state): what the words that matter are like.
    """

    def __init__(self, state_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(state_size, state_size)
        self.context = nn.Linear(state_size, 1, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Reduce `states`, (batch, length, state), where `mask`, (batch, length, 1), is true, to (batch, state)."""
        scores = self.context(torch.tanh(self.hidden(states)))  # (batch, length, 1)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=1)
        pooled: Tensor = (weights * states).sum(dim=1)
        return pooled


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
        # Last, so that for a seed the other weights are the same with every pooling.
        self.attention = WordAttention(spec.state_size) if spec.pooling == "attention" else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Classify a batch of token sequences.

        Args:
            input_ids: Token ids, (batch, length); whatever stands in padded places is ignored.
            attention_mask: True or 1 at real tokens, (batch, length); the padding is on the right.

        Returns:
            Logits, (batch, classes).
        """
        states, last = self.read(input_ids, attention_mask)
        return self.classify(states, last, attention_mask)

    def read(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the top layer's states, (batch, length, state), and its last ones, (batch, state)."""
        states, final = recur(self.recurrence, self.embed(input_ids), attention_mask.sum(dim=1))
        directions = 2 if self.spec.bidirectional else 1
        return states, torch.cat(tuple(final[-directions:]), dim=1)

    def classify(self, states: Tensor, last: Tensor, attention_mask: Tensor) -> Tensor:
        """Turn what `read` returns into logits, (batch, classes)."""
        pooled = last if self.spec.pooling == "last" else self._pool(states, attention_mask.bool())
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def embed(self, input_ids: Tensor) -> Tensor:
        """Look up (batch, length) ids; in training, drop whole tokens and single components out.

        Returns:
            (batch, length, embedding).
        """
        embedded = self.embedding(input_ids)
        if self.training and self.spec.word_dropout > 0.0:
            # Unlike components, the tokens that stay are not scaled up: no sum over tokens has to keep its size, and
            # a recurrence that never met a token at its own length would meet it first in prediction. What is blanked
            # reads as zeros, like the padding.
            kept = torch.rand(*input_ids.shape, 1, device=input_ids.device) >= self.spec.word_dropout
            embedded = embedded * kept
        dropped: Tensor = self.dropout(embedded)
        return dropped

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Reduce (batch, length, state) over the real tokens to (batch, state)."""
        mask = mask.unsqueeze(2)  # (batch, length, 1)
        if self.attention is not None:
            pooled: Tensor = self.attention(states, mask)
            return pooled
        if self.spec.pooling == "max":
            return states.masked_fill(~mask, -torch.inf).amax(dim=1)
        return states.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)


def recur(recurrence: nn.RNN | nn.GRU | nn.LSTM, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Run a recurrence over the real tokens.

    Args:
        recurrence: With the batch first.
        embedded: (batch, length, features), padded on the right.
        lengths: Real tokens of each text, (batch,).

    Returns:
        The top layer's states, (batch, length, state), 0 in padded places, and each layer's and direction's hidden
        state after its last real token, (layers * directions, batch, hidden).
    """
    if bool((lengths == embedded.shape[1]).all()):  # nothing is padded: packing would only cost time
        states, final = recurrence(embedded)
    else:
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed_states, final = recurrence(packed)
        states, _ = pad_packed_sequence(packed_states, batch_first=True, total_length=embedded.shape[1])
    return states, final[0] if isinstance(recurrence, nn.LSTM) else final
