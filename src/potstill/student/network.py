"""The recurrent classifier that is distilled: embedding, recurrence, pooling, linear map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from potstill.config import Cell, Pooling
from potstill.dropout import Dropout, dropout

_RECURRENCES: dict[Cell, type[nn.RNN | nn.GRU | nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}

_FUNCTIONS: dict[type[nn.Module], Callable[..., Any]] = {nn.RNN: torch.rnn_tanh, nn.GRU: torch.gru, nn.LSTM: torch.lstm}
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""What PyTorch's recurrences call theirs, in the order in which the functions take them."""


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
    word_dropout: float = 0.0
    surprisal_size: int = 0

    @property
    def directions(self) -> int:
        """How often the text is read: from left to right, and, where `bidirectional`, from right to left too."""
        return 2 if self.bidirectional else 1

    @property
    def state_size(self) -> int:
        """Width of the pooled state: the hidden size, twice that when both directions are read."""
        return self.hidden_size * self.directions


class Reading(NamedTuple):
    """What a student knows of a batch of texts when it has read them.

    Attributes:
        embedded: The tokens' embeddings, those of blanked ones 0, (batch, length, embedding).
        states: The top layer's states, 0 in padded places, (batch, length, state).
        last: Its last ones, (batch, state).
    """

    embedded: Tensor
    states: Tensor
    last: Tensor


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


class NextTokenHead(nn.Module):
    """What each direction of a recurrence expects at a token, from what it has read before it: W·h + b.

    h is the direction's state there, 0 before the first token. The guess is an embedding: the more it agrees with a
    token's, the more probable it holds that token (see `pretraining.BidirectionalLM`). W and b begin as 0.

    Attributes:
        maps: W and b of each direction, (embedding, hidden).
    """

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(spec.hidden_size, spec.embedding_size) for _ in range(spec.directions))
        for parameter in self.maps.parameters():
            nn.init.zeros_(parameter)

    def forward(self, states: Tensor) -> Tensor:
        """Map a layer's states, (batch, length, state), 0 in padded places, to (batch, length, directions, embedding).

        From left to right, all before the token has been read when it is foretold; from right to left, all behind it.
        """
        shifts = ((1, -1), (-1, 1))
        parts = states.chunk(len(self.maps), dim=2)
        read = [pad(part, (0, 0, *shift)) for part, shift in zip(parts, shifts, strict=False)]
        return torch.stack([guess(part) for guess, part in zip(self.maps, read, strict=True)], dim=2)


class Surprisal(nn.Module):
    """How a text's tokens compare with what was expected in their places, as evidence for each class.

    How probable a language model holds a sentence says much of whether people accept it (Lau, Clark and Lappin 2017,
    "Grammaticality, Acceptability, and Probability"), and where it is wrong, one token often says it. A pooled state
    can hardly tell: it has read the token already. So the summands of each guess's logit, e·g component by component,
    are classified directly, and the most conspicuous token counts:

        v_t = relu(A·[e_t ⊙ g_t; e_t] + a),  logits += B · max over t of v_t

    Attributes:
        next_token_head: g of each direction.
        compare: A and a, (size, (directions + 1) * embedding).
        head: B, (classes, size).
    """

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__()
        self.next_token_head = NextTokenHead(spec)
        self.compare = nn.Linear((spec.directions + 1) * spec.embedding_size, spec.surprisal_size)
        self.head = nn.Linear(spec.surprisal_size, spec.num_classes, bias=False)
        self.dropout = Dropout(spec.dropout)

    def forward(self, reading: Reading, mask: Tensor) -> Tensor:
        """Return what is added to the logits, (batch, classes); `mask`, (batch, length, 1), is true at real tokens."""
        agreement = reading.embedded.unsqueeze(2) * self.next_token_head(reading.states)
        features = torch.cat([agreement.flatten(2), reading.embedded], dim=2)
        found = self.compare(self.dropout(features)).relu()  # (batch, length, size)
        evidence: Tensor = self.head(found.masked_fill(~mask, 0.0).amax(dim=1))
        return evidence


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
        self.dropout = Dropout(spec.dropout)
        self.head = nn.Linear(spec.state_size, spec.num_classes)
        # Last, so that for a seed the other weights are the same with every pooling.
        self.attention = WordAttention(spec.state_size) if spec.pooling == "attention" else None
        self.surprisal = Surprisal(spec) if spec.surprisal_size else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Classify a batch of token sequences.

        Args:
            input_ids: Token ids, (batch, length); whatever stands in padded places is ignored.
            attention_mask: True or 1 at real tokens, (batch, length); the padding is on the right.

        Returns:
            Logits, (batch, classes).
        """
        return self.classify(self.read(input_ids, attention_mask), attention_mask)

    def read(self, input_ids: Tensor, attention_mask: Tensor) -> Reading:
        """Read a batch of token sequences; the arguments are those of `forward`."""
        embedded = self.embed(input_ids)
        states, final = recur(self.recurrence, self.dropout(embedded), attention_mask.sum(dim=1))
        return Reading(embedded, states, torch.cat(tuple(final[-self.spec.directions :]), dim=1))

    def classify(self, reading: Reading, attention_mask: Tensor) -> Tensor:
        """Turn what has been read into logits, (batch, classes)."""
        mask = attention_mask.bool().unsqueeze(2)  # (batch, length, 1)
        pooled = reading.last if self.spec.pooling == "last" else self._pool(reading.states, mask)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits if self.surprisal is None else logits + self.surprisal(reading, mask)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Look tokens up and, in training, blank some of them; returns (batch, length, embedding)."""
        embedded: Tensor = self.embedding(input_ids)
        if self.training and self.spec.word_dropout > 0.0:
            # Unlike components, the tokens that stay are not scaled up: no sum over tokens has to keep its size, and
            # a recurrence that never met a token at its own length would meet it first in prediction. What is blanked
            # reads as zeros, like the padding.
            kept = torch.rand(*embedded.shape[:-1], 1, device=embedded.device) >= self.spec.word_dropout
            embedded = embedded * kept
        return embedded

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Reduce (batch, length, state) where `mask`, (batch, length, 1), is true to (batch, state)."""
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
    if embedded.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not _bfloat16_recurs():
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


def _bfloat16_recurs() -> bool:
    """Say whether this processor has oneDNN's LSTM in bfloat16: autocast asks for it unseen, and without it raises."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return not there or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _recur_padded(recurrence: nn.RNN | nn.GRU | nn.LSTM, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Read the padding as well, and forget it: arguments and results are those of `recur`.

    For packed sequences PyTorch calls small operations step by step on a CPU; whole batches oneDNN takes at once. What
    stands behind a text can't change what was read before it. So that it stands behind it for both directions, texts
    are turned round for the one from right to left.
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
