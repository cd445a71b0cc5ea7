"""Predictions for a whole split, without gradients; memory that is used up, explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from potstill.data.tokenised import TrainingSet, sequential_batches
from potstill.errors import MemoryUsedUpError
from potstill.training import parallel


def tokens_at_once(fabric: Fabric) -> int:
    """Return how many tokens a pretrained model reads at once: enough to keep the device busy.

    On a CPU no more than that: without gradients the activations stay in its caches, and in training, where all of them
    are kept, long texts take little more memory than short ones.
    """
    return 1024 if fabric.device.type == "cpu" else 32_768


def predict_logits(
    model: nn.Module, data: TrainingSet, fabric: Fabric, *, on_batch: Callable[[int], object] = lambda _: None
) -> Tensor:
    """Classify all texts without gradients; the model is put into evaluation mode.

    `on_batch` is called after each batch with the number of its texts.

    Returns:
        Logits in the texts' order, float32, on the CPU, (texts, classes).

    Raises:
        MemoryUsedUpError: Memory is used up.
    """
    model.eval()
    batches = list(sequential_batches(data.tokens.lengths, tokens_at_once(fabric)))
    own, counts = parallel.share(np.arange(len(batches)))
    parts: list[Tensor] = []
    where = f"while texts of up to {data.tokens.lengths.max()} tokens are read without training"
    with torch.no_grad(), memory_explained(lambda: where):
        for indices in (batches[place] for place in own):
            batch = data.batch(indices).to(fabric.device)
            with fabric.autocast():
                parts.append(model(*batch.inputs).float().cpu())
            on_batch(len(indices))
    read, logits = torch.from_numpy(np.concatenate([batches[place] for place in own])), torch.cat(parts)
    rows = logits.new_zeros(len(data), *logits.shape[1:])
    return parallel.add_up_rows(rows.index_copy_(0, read, logits) if counts else rows)


@contextmanager
def memory_explained(where: Callable[[], str], remedy: str = "") -> Iterator[None]:
    """Say what to do, above all `remedy`, where memory, a GPU's or the machine's, is used up.

    `where` says what was going on, in words that follow "memory is used up".

    Raises:
        MemoryUsedUpError: In place of the error of Python or PyTorch.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # PyTorch has no class of its own for the machine's memory.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not known:
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        usual = "lower max_length, end what else uses the memory, or compute where there is more of it, with --device"
        raise MemoryUsedUpError(f"memory is used up {where()} ({said})\n  what to do: {remedy}{usual}") from error
