"""Which decoders can read trees of tokens, in which texts share their beginnings; see `data.trees`."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from transformers import PretrainedConfig

from potstill.backbone.classifier import TextClassifier, evaluating
from potstill.data.trees import plant

_TRIAL: Final = [np.array(ids, dtype=np.int32) for ids in ([*range(3, 15), 3, 4, 5], [*range(3, 15), 9, 8], [5, 4, 3])]
"""Texts for a trial, two of which share more than they differ in. A model with fewer tokens fails it, no more."""

_SAME: Final = 1e-3
"""Norm of the difference of two states over that of a state, up to which they are the same in float32."""


@torch.no_grad()
def reads_trees(classifier: TextClassifier) -> bool:
    """Say whether a pass over trees gives the states of a pass over texts: a trial on a few tokens tells.

    Some families count positions by themselves, or know the distance of two tokens from their places. That others see
    no further than a window, no short trial can tell; their settings do. With `echo` a text is more than the path to a
    last token, and its second half is never shared.
    """
    if not classifier.is_decoder or classifier.echo is not None or _has_windows(classifier.model.config):
        return False
    device = next(classifier.parameters()).device
    try:
        with evaluating(classifier):
            forest = plant(_TRIAL, classifier.padding_id)
            arrays = (forest.ids, forest.depths, forest.attended)
            ids, depths, attended = (torch.from_numpy(array).to(device) for array in arrays)
            states = classifier.tree_states(ids, attended.unsqueeze(1), depths)
            for text, row, end in zip(_TRIAL, forest.rows, forest.ends, strict=True):
                alone = torch.from_numpy(text).long().to(device).unsqueeze(0)
                expected = classifier.states(alone, torch.ones_like(alone))[0, -1]
                if not (states[row, end] - expected).norm() <= _SAME * expected.norm():  # nor where one is no number
                    return False
    except Exception:  # whatever a family does with what it does not know, it reads no trees
        return False
    return True


def _has_windows(config: PretrainedConfig) -> bool:
    """Say whether some layer attends to the nearest tokens only."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ()
    sizes = (getattr(config, name, None) for name in ("sliding_window", "window_size"))
    return any(kind not in ("full_attention", "global") for kind in kinds) or any(size is not None for size in sizes)
