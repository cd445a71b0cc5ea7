import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from potstill.config import TrainingConfig
from potstill.training.schedule import learning_rate_factor, make_optimizer


def factors_of(steps: int, **settings) -> list[float]:
    factor = learning_rate_factor(TrainingConfig(**settings), steps)
    return [factor(step) for step in range(steps)]


@pytest.mark.parametrize(
    ("warmup", "schedule", "expected"),
    [
        (0.25, "linear", [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (0.0, "cosine", [1.0, 0.8535534, 0.5, 0.1464466]),
        (0.25, "constant", [1 / 3, 2 / 3, *[1.0] * 8]),  # a warm-up of no whole number of steps is rounded up
    ],
)
def test_the_rate_rises_then_falls_or_stays(warmup, schedule, expected):
    assert factors_of(len(expected), warmup_ratio=warmup, schedule=schedule) == pytest.approx(expected)


@given(
    steps=st.integers(1, 300),
    warmup=st.floats(0, 0.99),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
)
def test_every_step_has_a_rate_above_0_and_the_peak_is_reached(steps, warmup, schedule):
    factors = factors_of(steps, warmup_ratio=warmup, schedule=schedule)
    assert all(0.0 < factor <= 1.0 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[peak] == 1.0
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_only_trained_matrices_decay(name, kind):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, TrainingConfig(optimizer=name, weight_decay=0.1, learning_rate=0.5))
    assert type(optimizer) is kind
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {id(p): 0.1 if p.dim() == 2 else 0.0 for p in model.parameters() if p.requires_grad}
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
