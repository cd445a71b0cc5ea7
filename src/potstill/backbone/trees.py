"""Which decoders can read trees of tokens, in which texts share their beginnings; see `data.trees`."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import nn

from potstill.backbone.classifier import TextClassifier
from potstill.data.trees import plant

_TRIAL: Final = [np.array(ids, dtype=np.int32) for ids in ([*range(3, 15), 3, 4, 5], [*range(3, 15), 9, 8], [5, 4, 3])]
"""Texts for a trial, two of which share more than they differ in. All models know such low ids."""


@torch.no_grad()
def reads_trees(classifier: TextClassifier, tolerance: float) -> bool:
    """Say whether a pass over trees gives the states of a pass over texts: a trial on a few tokens tells.

    Some families count positions by themselves, or know the distance of two tokens from their places.

    Args:
        classifier: Any.
        tolerance: Norm of the difference of two states over that of a state, up to which they are the same.
    """
    if not classifier.is_decoder:
        return False
    device = next(classifier.parameters()).device
    was_training = classifier.training
    classifier.eval()
    try:
        forest = plant(_TRIAL, classifier.padding_id)
        ids, depths, attended = (torch.from_numpy(a).to(device) for a in (forest.ids, forest.depths, forest.attended))
        states = classifier.tree_states(ids, attended.unsqueeze(1), depths)
        for text, row, end in zip(_TRIAL, forest.rows, forest.ends, strict=True):
            alone = torch.from_numpy(text).long().to(device).unsqueeze(0)
            expected = classifier.states(alone, torch.ones_like(alone))[0, -1]
            if not (states[row, end] - expected).norm() <= tolerance * expected.norm():  # nor where one is no number
                return False
    except (TypeError, ValueError, RuntimeError):  # called with what it does not know
        return False
    finally:
        classifier.train(was_training)
    return True


def drops_out(classifier: TextClassifier) -> bool:
    """Say whether anything is dropped in training: what texts share would then be dropped for all of them at once."""
    config = classifier.model.config.to_dict()
    rates = [value for name, value in config.items() if "drop" in name and isinstance(value, float)]
    modules = [module.p for module in classifier.modules() if isinstance(module, nn.Dropout)]
    return any(rate > 0.0 for rate in (*rates, *modules))
