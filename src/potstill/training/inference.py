"""Reading texts without gradients: whole splits, in batches as large as fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from potstill.data.tokenised import Batch, TrainingSet
from potstill.training.memory import kept_memory, memory_explained

Indices = NDArray[np.int64]


def tokens_at_once(fabric: Fabric) -> int:
    """Return how many tokens a pretrained model reads at once: enough to keep the device busy.

    On a CPU no more than that: without gradients the activations stay in its caches, and in training, where all of them
    are kept, long texts take little more memory than short ones.
    """
    return 1024 if fabric.device.type == "cpu" else 32_768


def predict_logits(
    model: nn.Module,
    data: TrainingSet,
    fabric: Fabric,
    *,
    on_batch: Callable[[int], object] = lambda _: None,
) -> Tensor:
    """Classify all texts without gradients.

    Args:
        model: Called with a batch's `inputs`, returns logits; put into evaluation mode.
        data: The texts.
        fabric: Device and precision.
        on_batch: Called after each batch with the number of its texts; what it raises ends all.

    Returns:
        Logits in the texts' order, float32, on the CPU, (texts, classes).

    Raises:
        MemoryUsedUpError: Memory is used up.
    """
    parts: list[Tensor] = []
    order: list[Indices] = []
    with without_gradients(model, data, fabric) as batches:
        for indices, batch in batches:
            with fabric.autocast():
                parts.append(model(*batch.inputs).float().cpu())
            order.append(indices)
            on_batch(len(indices))
    logits = torch.cat(parts)
    return torch.empty_like(logits).index_copy_(0, torch.from_numpy(np.concatenate(order)), logits)


@contextmanager
def without_gradients(model: nn.Module, data: TrainingSet, fabric: Fabric) -> Iterator[Iterator[tuple[Indices, Batch]]]:
    """Read all texts once, in evaluation mode, without gradients and in batches as large as fit.

    Args:
        model: What reads them.
        data: The texts.
        fabric: Device and precision; autocasting is left to the reader.

    Yields:
        The batches, on the device, each after the indices of its texts.

    Raises:
        MemoryUsedUpError: Memory is used up.
    """
    model.eval()
    # What is compiled is compiled for training; a graph of its own for this would cost more than it gains.
    eager = torch.compiler.set_stance("force_eager")
    explained = memory_explained(
        lambda: f"while texts of up to {data.tokens.lengths.max()} tokens are read without training",
        # A batch holds `tokens_at_once` or one text, whatever `batch_size` is.
        "lower max_tokens, which decides the size here, not batch_size; or end what else uses the memory; or compute "
        "where there is more of it, with --device",
    )
    with torch.no_grad(), explained, kept_memory(), eager:
        yield (
            (indices, data.batch(indices).to(fabric.device))
            for indices in data.sequential_batches(tokens_at_once(fabric))
        )
