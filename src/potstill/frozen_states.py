"""What a frozen prefix makes of a data set: computed once, kept on disk, shared by epochs, seeds and trials."""

from __future__ import annotations

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from potstill.artifacts import mapped_array
from potstill.backbone.prefix import FrozenPrefix
from potstill.console import counted
from potstill.data.tokenised import TrainingSet
from potstill.files import cache_directory
from potstill.training.inference import without_gradients

States = NDArray[np.float32]
"""Hidden states of many texts end to end, (tokens, hidden)."""


def frozen_states(prefix: FrozenPrefix, data: TrainingSet, fabric: Fabric, key: str) -> States | None:
    """Return what `prefix` hands on for every token of `data`.

    Args:
        prefix: The frozen blocks.
        data: The texts.
        fabric: Device and precision.
        key: Digest of everything that decides the states.

    Returns:
        The states, memory-mapped: they may be larger than memory. None: they would take more than half of the disk's
        free space. (A mapped file that outgrows its disk ends the process without a word.)
    """
    shape = (len(data.tokens.ids), prefix.classifier.model.config.hidden_size)
    path = cache_directory() / "states" / key
    return mapped_array(path, shape, np.float32, lambda states: _compute(prefix, data, fabric, states))


def _compute(prefix: FrozenPrefix, data: TrainingSet, fabric: Fabric, states: States) -> None:
    """Fill in the states, (tokens, hidden)."""
    passing = without_gradients(prefix.classifier, data, fabric)
    with counted("frozen blocks", len(data)) as advance, passing as batches:
        for indices, batch in batches:
            with fabric.autocast():
                computed = prefix.states(batch.input_ids, batch.attention_mask).float().cpu()
            real = batch.attention_mask.bool().cpu()
            places = [np.arange(*data.tokens.offsets[[index, index + 1]]) for index in indices]
            states[np.concatenate(places)] = computed[real].numpy()
            advance(len(indices))
