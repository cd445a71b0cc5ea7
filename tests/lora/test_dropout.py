"""Dropout against what its definition says: how much, which, and what for the gradient."""

import pytest
import torch
from torch import nn

from potstill.lora.dropout import Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_each_component_is_dropped_with_probability_p_and_the_mean_is_kept(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(401, 499, dtype=dtype)  # no multiple of four components
    y = dropout(x, p)
    assert y.dtype == dtype
    assert set(y.unique().tolist()) == {0.0, float(x[0, 0].clone().mul_(1 / (1 - p)))}
    dropped = (y == 0).double().flatten()
    deviation = (p * (1 - p)) ** 0.5
    assert abs(dropped.mean() - p) < 5 * deviation / len(dropped) ** 0.5
    quarters = dropped[: len(dropped) // 4 * 4].view(-1, 4)  # which share a draw
    assert (quarters.mean(dim=0) - p).abs().max() < 5 * deviation / len(quarters) ** 0.5
    together = torch.corrcoef(quarters.T) - torch.eye(4)
    assert together.abs().max() < 5 / len(quarters) ** 0.5


def test_dropped_components_get_no_gradient():
    x = torch.randn(31, 7, requires_grad=True)
    y = dropout(x, 0.4)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x, y)
    assert 0 < (x.grad == 0).sum() < x.numel()


@pytest.mark.parametrize("p", [0.0, 1.0, 1e-9, 1 - 1e-9])
def test_p_near_0_or_1_is_pytorchs_own_dropout(p):
    x = torch.randn(50)
    assert torch.equal(dropout(x, p), nn.functional.dropout(x, p))


def test_nothing_is_dropped_in_evaluation():
    x = torch.randn(50)
    module = Dropout(0.5)
    assert torch.equal(module.eval()(x), x)
    assert (module.train()(x) == 0).any()
    assert dropout(torch.empty(0, 3), 0.5).shape == (0, 3)
