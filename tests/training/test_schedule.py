import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from potstill.config import TrainingConfig
from potstill.lora import LoRALinear
from potstill.training.schedule import learning_rate_factor, make_optimizer


def course(steps: int, **settings) -> list[float]:
    factor = learning_rate_factor(TrainingConfig(**settings), steps)
    return [factor(step) for step in range(steps)]


def test_linear_rises_and_falls():
    assert course(8, warmup=0.25, schedule="linear") == pytest.approx([1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_cosine_falls_along_a_cosine():
    assert course(4, warmup=0.0, schedule="cosine") == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])


def test_constant_stays():
    assert course(6, warmup=0.5, schedule="constant")[2:] == [1.0] * 4


def test_a_warm_up_of_no_whole_steps_is_rounded_up():
    assert course(10, warmup=0.25, schedule="constant") == pytest.approx([1 / 3, 2 / 3, *[1.0] * 8])


@given(
    steps=st.integers(1, 300),
    warmup=st.floats(0, 0.99),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
)
def test_no_step_is_wasted_and_the_peak_is_reached(steps, warmup, schedule):
    factors = course(steps, warmup=warmup, schedule=schedule)
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


def test_the_adapters_b_learns_at_its_own_rate():
    model = LoRALinear(nn.Linear(3, 4), rank=2, alpha=4)
    model.base.bias.requires_grad_(True)
    optimizer = make_optimizer(model, TrainingConfig(weight_decay=0.1, learning_rate=0.5), b_ratio=8.0)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found == {"lora_A": (0.5, 0.1), "lora_B": (4.0, 0.1), "base.bias": (4.0, 0.0)}
