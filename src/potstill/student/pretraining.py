"""What a student learns before it learns to classify: to predict the token that it reads next.

Each direction of the first recurrent layer is a language model of its own, the one from left to right, the other from
right to left (Peters et al. 2018, "Deep contextualized word representations", arXiv 1802.05365, section 3.1). To the
layers above, which see what both have read, the next token would be no secret: they learn when the classifier does.

On sentences that the teacher's language model wrote this is sequence-level distillation (Kim and Rush 2016, arXiv
1606.07947).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, linear

from potstill.config import RNNConfig, RuntimeConfig, TrainingConfig
from potstill.student.recurrence import NextTokenHead, recur
from potstill.training.base import FitContext, FitResult, Splits
from potstill.training.callbacks import standard_callbacks
from potstill.training.compute import make_fabric
from potstill.training.fit import fit
from potstill.training.language_modelling import LanguageModelLoss, sum_per_text

if TYPE_CHECKING:
    from potstill.student.rnn import DistilRNN

CANDIDATES: Final = 1024
"""Tokens drawn in each training step to tell the right ones from, see `BidirectionalLM`. With a vocabulary of 8,000 the
logits of all tokens would take three quarters of a step; with these a step takes a third of the time, and after three
epochs on CoLA the perplexity is within 1 % of what the exact sum leads to."""

PRETRAINING_FILE: Final = "pretraining.jsonl"
PRETRAINING_CHECKPOINT_FILE: Final = "pretraining-checkpoint.safetensors"


def pretrain(
    network: DistilRNN, data: Splits, settings: RNNConfig, runtime: RuntimeConfig, directory: Path, seed: int
) -> FitResult:
    """Train embeddings and first layer of `network` as language models, and leave it with its best epoch's weights.

    The perplexity of the validation split decides the best epoch; labels make no difference. `directory` gets the
    history and, until the student is finished, the checkpoint with the result.

    Raises:
        TrainingError: The loss is no longer finite.
    """
    config = TrainingConfig(**settings.pretraining.model_dump(), metric="loss")
    callbacks = standard_callbacks(
        config, runtime, directory, (settings,), history=PRETRAINING_FILE, checkpoint=PRETRAINING_CHECKPOINT_FILE
    )
    context = FitContext(config, make_fabric(runtime), seed, f"language modelling {seed}", callbacks)
    counts = np.bincount(data.train.tokens.ids, minlength=network.spec.vocab_size)
    model = BidirectionalLM(network, torch.from_numpy(counts))
    texts = Splits(replace(data.train, teacher_logits=None), replace(data.validation, teacher_logits=None))
    return fit(model, texts, LanguageModelLoss(), context)


class BidirectionalLM(nn.Module):
    """A student's first layer as language models, one per direction.

    What a direction expects next is compared with every token's embedding (Press and Wolf 2017, "Using the Output
    Embedding to Improve Language Models", arXiv 1608.05859):

        p(next = j | h) ∝ n_j · exp(e_j · (W·h + b)),  n_j the frequency of j in the texts

    W and b begin as 0, so that the first guess is the frequency, which the embeddings then need not learn. A student
    with surprisal features keeps them; else they are thrown away afterwards.

    In training the sum over the vocabulary is estimated from the batch's own tokens and `CANDIDATES` others, each
    divided by the probability with which it is among these (importance sampling, Bengio and Senécal 2003; Jean et al.
    2015, arXiv 1412.2007). In evaluation it is exact.

    Attributes:
        log_frequencies: ln n_j, (vocabulary,); of the padding -inf: it is never expected, and its embedding stays 0.
    """

    log_frequencies: Tensor

    def __init__(self, network: DistilRNN, counts: Tensor) -> None:
        """Wrap `network`; `counts` says how often each token is in the texts, (vocabulary,)."""
        super().__init__()
        self.network = network
        self.layer = first_layer(network)
        spec = network.spec
        self.next_token_head = NextTokenHead(spec) if network.surprisal is None else network.surprisal.next_token_head
        smoothed = (counts + 1.0).index_fill(0, torch.tensor([spec.pad_token_id]), 0.0)
        self.register_buffer("log_frequencies", (smoothed / smoothed.sum()).log().float())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Add up the negative log-likelihoods of all tokens, in each direction, of texts (batch, length).

        Returns:
            For each text the sum, in nats, and the number of guesses it goes over, (batch, 2), float32.
        """
        spec = self.network.spec
        embedded = self.network.dropout(self.network.embedding(input_ids))
        states, _ = recur(self.layer, embedded, attention_mask.sum(dim=1))
        guesses = self.next_token_head(states)  # (batch, length, directions, embedding)
        targets = input_ids.unsqueeze(2).expand(guesses.shape[:3])
        # Some tokenizers end a text with the padding token: it is never a target.
        real = (attention_mask.bool() & (input_ids != spec.pad_token_id)).unsqueeze(2).expand_as(targets)
        return sum_per_text(self.token_nll(guesses[real], targets[real]), real.flatten(1))

    def token_nll(self, guesses: Tensor, targets: Tensor) -> Tensor:
        """Return each target's negative log-likelihood, (tokens,), from guesses, (tokens, embedding)."""
        table = self.network.embedding.weight
        if not self.training or len(table) <= CANDIDATES:
            logits = linear(guesses, table, self.log_frequencies)  # (tokens, vocabulary)
            return cross_entropy(logits.float(), targets, reduction="none")
        chosen = torch.zeros(len(table), dtype=torch.bool, device=targets.device)
        chosen[torch.randint(len(table), (CANDIDATES,), device=targets.device)] = True
        chosen[targets] = True
        candidates = chosen.nonzero()[:, 0]
        right = (chosen.cumsum(dim=0) - 1)[targets]  # the place of each target among the candidates
        inclusion = self._log_inclusion(len(targets) // self.network.spec.directions)  # all have the same targets
        bias = self.log_frequencies - inclusion
        estimates = linear(guesses, embedding(candidates, table), bias[candidates]).float()  # (tokens, candidates)
        # The right token is certainly among the candidates: it counts once.
        certain = estimates.gather(1, right.unsqueeze(1)) + inclusion[targets].unsqueeze(1)
        return cross_entropy(estimates.scatter(1, right.unsqueeze(1), certain), right, reduction="none")

    def _log_inclusion(self, tokens: int) -> Tensor:
        """Return the logarithm of each token's probability to be among the candidates, (vocabulary,).

        It is there unless all the batch's tokens and all that is drawn evenly are others:
        1 - (1 - n_j)^tokens · (1 - 1/V)^CANDIDATES.
        """
        frequencies = self.log_frequencies.exp()
        absent = tokens * torch.log1p(-frequencies) + CANDIDATES * np.log1p(-1.0 / len(frequencies))
        return torch.log(-torch.expm1(absent))


def first_layer(network: DistilRNN) -> nn.RNN | nn.GRU | nn.LSTM:
    """Return the first layer of a student's recurrence as a module that shares its parameters."""
    spec = network.spec
    layer = type(network.recurrence)(
        spec.embedding_size, spec.hidden_size, bidirectional=spec.bidirectional, batch_first=True, device="meta"
    )
    for name in [name for name, _ in layer.named_parameters()]:
        setattr(layer, name, getattr(network.recurrence, name))
    return layer
