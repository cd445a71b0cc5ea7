import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from potstill.lora import linear
from potstill.lora.linear import frozen_linear

IN, OUT = 160, 128  # large enough for the product to be ours
KINDS = {"Linear": lambda: nn.Linear(IN, OUT), "Conv1D": lambda: Conv1D(OUT, IN)}


@pytest.fixture(params=KINDS)
def base(request):
    torch.manual_seed(0)
    base = KINDS[request.param]()
    base.weight.requires_grad_(False)
    return base


@pytest.fixture(autouse=True, params=["onednn", "own"])
def faster(request, monkeypatch):
    """Whose product is the faster one: what a machine without AVX-512 does is tested on one that has it, and back."""
    if request.param == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("needs oneDNN")
    monkeypatch.setattr(linear, "_ONEDNN_IS_FASTER", request.param == "onednn")
    return request.param


def results(map_rows, base, x):
    """Return the output, and the gradients of input and bias."""
    x = x.clone().requires_grad_()
    y = map_rows(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
    gradients = (x.grad, base.bias.grad)
    base.bias.grad = None
    return (y, *gradients)


@pytest.mark.parametrize("rows", [0, 1, 33])
def test_outputs_and_gradients_are_those_of_the_map(base, rows):
    x = torch.randn(rows, IN)
    for ours, own in zip(results(lambda x: frozen_linear(base, x), base, x), results(base, base, x), strict=True):
        torch.testing.assert_close(ours, own, atol=1e-4, rtol=1e-5)


def test_onednn_multiplies_where_it_is_faster(base, faster):
    def products(module, x):
        with torch.profiler.profile() as profiler:
            frozen_linear(module, x.requires_grad_())
        return sum(event.count for event in profiler.key_averages() if event.key == "mkldnn::_linear_pointwise")

    small = nn.Linear(8, 8).requires_grad_(False)
    x = torch.randn(4, IN)
    assert products(base, x) == (faster == "onednn")
    assert products(small, torch.randn(4, 8)) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert products(base, x) == 0
    assert products(base.double(), x.double()) == 0
