"""Language modelling through the one fit loop: what a model returns for each text, and the objective."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from potstill.data.tokenised import Batch, TrainingSet
from potstill.training.loop import Record


def sum_per_text(nll: Tensor, real: Tensor) -> Tensor:
    """Add up what each text's tokens cost.

    Args:
        nll: Negative log-likelihoods of the foretold tokens, text by text, (tokens,), float32.
        real: True where a token was foretold, (batch, length).

    Returns:
        For each text the sum, in nats, and the number of tokens it goes over, (batch, 2), float32: what
        `LanguageModelLoss` takes.
    """
    numbers = real.sum(dim=1)
    texts = torch.arange(len(real), device=real.device).repeat_interleave(numbers)  # (tokens,)
    sums = torch.zeros(len(real), device=real.device).index_add(0, texts, nll)
    return torch.stack([sums, numbers.float()], dim=1)


class LanguageModelLoss:
    """The objective of language modelling: the mean negative log-likelihood of a token."""

    def __call__(self, outputs: Tensor, _targets: Batch | TrainingSet) -> dict[str, Tensor]:
        """Return `loss` in nats, from what `sum_per_text` returns; 0 where no token was foretold."""
        return {"loss": outputs[:, 0].sum() / outputs[:, 1].sum().clamp(min=1.0)}

    def score(self, outputs: Tensor, data: TrainingSet) -> Record:
        """Return `selection_loss` and the perplexity."""
        loss = float(self(outputs, data)["loss"])
        return {"selection_loss": loss, "perplexity": float(np.exp(loss))}
