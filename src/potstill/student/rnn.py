"""The recurrent classifier that is distilled: embedding, recurrence, pooling, linear map."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from potstill.config import RNNConfig, RuntimeConfig, StudentConfig
from potstill.lora.dropout import Dropout
from potstill.predict.session import LOGITS
from potstill.predict.wording import numbered
from potstill.student.base import Network
from potstill.student.ngram import NgramBag
from potstill.student.onnx import Graph, add_ngrams, add_recurrent
from potstill.student.pretraining import pretrain
from potstill.student.recurrence import RECURRENCES, NextTokenHead, RNNSpec, recur
from potstill.training.base import FitResult, Splits


class Surprisal(nn.Module):
    """How a text's tokens compare with what was expected in their places, as evidence for each class.

    The probability that a language model gives a sentence says much of whether people accept it (Lau, Clark and Lappin
    2017, "Grammaticality, Acceptability, and Probability"), and often a single token makes it wrong. A pooled state
    hardly shows that: it has read the token already. So the summands of each guess's logit, e·g component by component,
    are classified directly, and the most conspicuous token counts:

        v_t = relu(A·[e_t ⊙ g_t; e_t] + a),  logits += B · max over t of v_t

    `next_token_head` makes g of each direction; `compare` is A, (size, (directions + 1) * embedding), and a; `head` is
    B, (classes, size).
    """

    def __init__(self, spec: RNNSpec) -> None:
        super().__init__()
        self.next_token_head = NextTokenHead(spec)
        self.compare = nn.Linear((spec.directions + 1) * spec.embedding_size, spec.surprisal_size)
        self.head = nn.Linear(spec.surprisal_size, spec.num_classes, bias=False)
        self.dropout = Dropout(spec.dropout)

    def forward(self, embedded: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Return what is added to the logits, (batch, classes).

        Args:
            embedded: The tokens' embeddings, (batch, length, embedding).
            states: The layer's states, 0 in padded places, (batch, length, state).
            mask: True at real tokens, (batch, length, 1).
        """
        agreement = embedded.unsqueeze(2) * self.next_token_head(states)
        features = torch.cat([agreement.flatten(2), embedded], dim=2)
        found = self.compare(self.dropout(features)).relu()  # (batch, length, size)
        evidence: Tensor = self.head(found.masked_fill(~mask, 0.0).amax(dim=1))
        return evidence


class DistilRNN(Network):
    """A recurrent classifier of a few million parameters.

    With `cell="rnn"`, one direction, one layer and `pooling="last"` it is the reference experiment's network:
    embedding, Elman recurrence (tanh), the hidden state after the last real token, linear map.
    """

    settings = RNNConfig
    spec_class = RNNSpec
    spec: RNNSpec
    embedding: nn.Embedding

    def __init__(self, spec: RNNSpec) -> None:
        super().__init__(spec)
        self.embedding = nn.Embedding(spec.vocab_size, spec.embedding_size, padding_idx=spec.pad_token_id)
        self.recurrence = RECURRENCES[spec.cell](
            spec.embedding_size,
            spec.hidden_size,
            num_layers=spec.num_layers,
            bidirectional=spec.bidirectional,
            batch_first=True,
            dropout=spec.dropout if spec.num_layers > 1 else 0.0,  # PyTorch applies it between layers only
        )
        self.dropout = Dropout(spec.dropout)
        self.head = nn.Linear(spec.state_size, spec.num_classes)
        # Last, so that for a seed the other weights are the same without it.
        self.surprisal = Surprisal(spec) if spec.surprisal_size else None
        self.ngrams = (
            NgramBag(spec.ngram_buckets, spec.ngram_size, spec.num_classes, spec.dropout) if spec.ngram_size else None
        )

    @property
    def bias(self) -> nn.Parameter:
        """See `Network.bias`."""
        return self.head.bias if self.ngrams is None else self.ngrams.head.bias  # so that n-grams alone keep it

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *ngrams: Tensor) -> Tensor:
        """See `Network.forward`."""
        embedded = self.embedding(input_ids)  # (batch, length, embedding)
        states, final = recur(self.recurrence, self.dropout(embedded), attention_mask.sum(dim=1))
        mask = attention_mask.bool().unsqueeze(2)  # (batch, length, 1)
        if self.spec.pooling == "last":
            pooled = torch.cat(tuple(final[-self.spec.directions :]), dim=1)  # (batch, state)
        elif self.spec.pooling == "max":
            pooled = states.masked_fill(~mask, -torch.inf).amax(dim=1)
        else:
            pooled = states.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)
        logits: Tensor = self.head(self.dropout(pooled))
        if self.surprisal is not None:
            logits = logits + self.surprisal(embedded, states, mask)
        return logits if self.ngrams is None else logits + self.ngrams(*ngrams)

    def to_onnx(self) -> bytes:
        """See `Network.to_onnx`."""
        graph = Graph()
        add_recurrent(graph, self, LOGITS if self.ngrams is None else "recurrent")
        if self.ngrams is not None:
            add_ngrams(graph, self.ngrams, "wide")
            graph.add(f"{LOGITS} = Add (recurrent, wide)")
        return graph.serialise(self.spec.num_classes)

    def describe(self, settings: StudentConfig) -> str:
        """Say which network it is, where its embeddings begin and whether it learnt language modelling first."""
        direction = "bidirectional " if self.spec.bidirectional else ""
        layers = numbered(self.spec.num_layers, "layer")
        text = f"a small {direction}{self.spec.cell.upper()} network ({layers} of {self.spec.hidden_size} units)"
        if self.spec.surprisal_size:
            text += " with features of how each token compares with what the network expected there"
        if self.spec.ngram_size:
            text += " beside a bag of n-grams of words and characters"
        if settings.embedding_init == "teacher":
            text += "; its embeddings begin as the teacher's, reduced"
        if isinstance(settings, RNNConfig) and settings.pretraining.epochs:
            text += f"; it learnt language modelling first ({numbered(settings.pretraining.epochs, 'epoch')})"
        return text

    def pretrain(
        self, data: Splits, settings: StudentConfig, runtime: RuntimeConfig, directory: Path, seed: int
    ) -> FitResult | None:
        """Learn to predict the next token; see `pretraining`."""
        if not isinstance(settings, RNNConfig) or settings.pretraining.epochs == 0:
            return None
        return pretrain(self, data, settings, runtime, directory, seed)
