"""Optimiser and learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from potstill.config import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig, *, b_ratio: float = 1.0) -> torch.optim.Optimizer:
    """Build Adam or AdamW over the trainable parameters; weight decay acts on matrices only.

    Vectors (biases, normalisation) have a scale of their own that decay would distort (GPT-2's and BERT's habit).

    Args:
        model: What is trained.
        config: Kind, learning rate and weight decay.
        b_ratio: Learning rate of the adapters' B over that of everything else (LoRA+, Hayou et al. 2024, arXiv
            2402.12354, section 4: the wider the model, the larger B's should be by comparison). Vectors take B's rate,
            as in the authors' code and in PEFT.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_vector = parameter.dim() < 2
            rate = config.learning_rate * (b_ratio if is_vector or name.endswith("lora_B") else 1.0)
            decay = 0.0 if is_vector else config.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # One kernel for all tensors of a group: a model has hundreds of small adapter matrices.
    return kind(
        [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()],
        lr=config.learning_rate,
        fused=True,
    )


def learning_rate_factor(config: TrainingConfig, total_steps: int) -> Callable[[int], float]:
    """Return the learning rate of optimiser step 0, 1, … as a share of the peak.

    It rises linearly over the warm-up, beginning above 0 so that no step is wasted, then falls to just above 0 at the
    last step (linear, cosine) or stays (constant).
    """
    warmup = math.ceil(config.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, total_steps - warmup)  # 0 at the peak, below 1 at the last step
        if config.schedule == "linear":
            return max(0.0, 1.0 - done)
        if config.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        return 1.0

    return factor


def skip_to(schedule: torch.optim.lr_scheduler.LambdaLR, steps: int) -> None:
    """Put a fresh schedule where `steps` of its steps would have: the rate follows from their number alone."""
    rates = [base * factor(steps) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    schedule.load_state_dict(
        schedule.state_dict() | {"last_epoch": steps, "_step_count": steps + 1, "_last_lr": list(rates)}
    )
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
