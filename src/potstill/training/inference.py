"""Predictions for a whole split, without gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from potstill.data.tokenised import TrainingSet, sequential_batches
from potstill.training.memory import memory_explained


def tokens_at_once(fabric: Fabric) -> int:
    """Return how many tokens a pretrained model reads at once: enough to keep the device busy.

    On a CPU no more than that: without gradients the activations stay in its caches, and in training, where all of them
    are kept, long texts take little more memory than short ones.
    """
    return 1024 if fabric.device.type == "cpu" else 32_768


def predict_logits(
    model: nn.Module, data: TrainingSet, fabric: Fabric, *, on_batch: Callable[[int], object] = lambda _: None
) -> Tensor:
    """Classify all texts without gradients.

    Args:
        model: Called with a batch's `inputs`, returns logits; put into evaluation mode.
        data: The texts.
        fabric: Device and precision.
        on_batch: Called after each batch with the number of its texts.

    Returns:
        Logits in the texts' order, float32, on the CPU, (texts, classes).

    Raises:
        MemoryUsedUpError: Memory is used up.
    """
    model.eval()
    batches = list(sequential_batches(data.tokens.lengths, tokens_at_once(fabric)))
    explained = memory_explained(
        lambda: f"while texts of up to {data.tokens.lengths.max()} tokens are read without training",
        # A batch holds `tokens_at_once` or one text, whatever `batch_size` is.
        "lower max_length, which decides the size here, not batch_size; or end what else uses the memory; or compute "
        "where there is more of it, with --device",
    )
    parts: list[Tensor] = []
    with torch.no_grad(), explained:
        for indices in batches:
            batch = data.batch(indices).to(fabric.device)
            with fabric.autocast():
                parts.append(model(*batch.inputs).float().cpu())
            on_batch(len(indices))
    logits = torch.cat(parts)
    return torch.empty_like(logits).index_copy_(0, torch.from_numpy(np.concatenate(batches)), logits)
