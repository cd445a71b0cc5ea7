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
from potstill.errors import MemoryUsedUpError
from potstill.training.memory import kept_memory

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
    with torch.no_grad(), _memory_explained(data), eager:
        yield (
            (indices, data.batch(indices).to(fabric.device))
            for indices in data.sequential_batches(tokens_at_once(fabric))
        )


@contextmanager
def _memory_explained(data: TrainingSet) -> Iterator[None]:
    """Keep memory between passes over `data` without gradients, and say what to do where it is used up.

    Their batches hold `tokens_at_once` or one text, whatever `batch_size` is.

    Raises:
        MemoryUsedUpError: In place of what says so.
    """
    try:
        with kept_memory():
            yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryUsedUpError(
            f"memory is used up while texts of up to {data.tokens.lengths.max()} tokens are read without training "
            f"({first_line(error)})\n"
            f"  what to do: lower max_tokens, which decides the size here, not batch_size; or end what else uses the "
            f"memory; or compute where there is more of it, with --device"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory was used up: a GPU's, or the machine's, which PyTorch tells in words alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def first_line(error: Exception) -> str:
    """Return what an error says first, or else its kind."""
    return str(error).partition("\n")[0] or type(error).__name__
