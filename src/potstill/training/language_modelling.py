"""The loss of language modelling, and what a model returns for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from potstill.data.tokenised import Batch, TrainingSet
from potstill.training.base import Record


def sum_per_text(nll: Tensor, real: Tensor) -> Tensor:
    """Add up the negative log-likelihoods of each text's predicted tokens, (tokens,), text by text.

    Returns:
        For each text the sum, in nats, and the number of predicted tokens, (batch, 2), float32. `real` says where a
        token was predicted, (batch, length).
    """
    numbers = real.sum(dim=1)
    texts = torch.arange(len(real), device=real.device).repeat_interleave(numbers)  # (tokens,)
    sums = torch.zeros(len(real), device=real.device).index_add(0, texts, nll)
    return torch.stack([sums, numbers.float()], dim=1)


class LanguageModelLoss:
    """The mean negative log-likelihood of a token, for models that return what `sum_per_text` does."""

    def __call__(self, outputs: Tensor, _targets: Batch | TrainingSet) -> dict[str, Tensor]:
        """Return `loss` in nats; 0 where no token was predicted."""
        return {"loss": outputs[:, 0].sum() / outputs[:, 1].sum().clamp(min=1.0)}

    def score(self, outputs: Tensor, data: TrainingSet) -> Record:
        """Return `validation_loss` and the perplexity."""
        loss = float(self(outputs, data)["loss"])
        return {"validation_loss": loss, "perplexity": float(np.exp(loss))}
