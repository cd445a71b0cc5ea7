"""Weights as training leaves them: not where they started."""

import torch


@torch.no_grad()
def moved(model, seed=None):
    """Move all that is trained of a model away from its start, and return the model."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model
