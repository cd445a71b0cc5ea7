"""Optimiser and learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from potstill.config import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Build Adam or AdamW over the trainable parameters; weight decay acts on matrices only.

    Vectors (biases, normalisation) have a scale of their own that decay would distort (GPT-2's and BERT's habit).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = (
        {"params": [parameter for parameter in trained if parameter.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() < 2], "weight_decay": 0.0},
    )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # One kernel for all tensors of a group: a model has hundreds of small adapter matrices.
    return kind([group for group in groups if group["params"]], lr=config.learning_rate, fused=True)


def learning_rate_factor(config: TrainingConfig, total_steps: int) -> Callable[[int], float]:
    """Return the learning rate of optimiser step 0, 1, … as a share of the peak.

    It rises linearly over the warm-up, from above 0 so that no step is wasted, then falls to just above 0 at the last
    step (linear, cosine) or stays (constant).
    """
    warmup = math.ceil(config.warmup_ratio * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, total_steps - warmup)  # 0 at the peak, below 1 at the last step
        if config.schedule == "linear":
            return 1.0 - done
        if config.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        return 1.0

    return factor
