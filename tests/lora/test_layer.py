import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from potstill.lora import LoRALinear

IN, OUT, RANK, ALPHA = 12, 20, 4, 6.0
KINDS = {"Linear": lambda: nn.Linear(IN, OUT), "Conv1D": lambda: Conv1D(OUT, IN)}


@pytest.fixture(params=KINDS)
def base(request):
    torch.manual_seed(0)
    return KINDS[request.param]()


@pytest.fixture
def x():
    return torch.randn(3, 5, IN, generator=torch.Generator().manual_seed(1))


def tuned(base, **options):
    """Return an adapter whose B is no longer zero."""
    layer = LoRALinear(base, RANK, ALPHA, **options)
    nn.init.normal_(layer.lora_B)
    return layer


def test_a_fresh_adapter_changes_nothing(base, x):
    expected = base(x)
    torch.testing.assert_close(LoRALinear(base, RANK, ALPHA)(x), expected, atol=1e-6, rtol=1e-5)


def test_a_starts_as_a_linear_maps_weight_b_as_0_and_both_alone_are_trained(base):
    torch.manual_seed(2)
    layer = LoRALinear(base, RANK, ALPHA)
    torch.manual_seed(2)
    assert torch.equal(layer.lora_A, nn.Linear(IN, RANK, bias=False).weight)
    assert torch.equal(layer.lora_B, torch.zeros(OUT, RANK))
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


@pytest.mark.parametrize(("use_rslora", "scaling"), [(False, ALPHA / 4), (True, ALPHA / 2)])
def test_the_update_follows_the_papers(base, x, use_rslora, scaling):
    layer = tuned(base, use_rslora=use_rslora)
    update = scaling * layer.lora_B.double() @ layer.lora_A.double()  # (out, in)
    weight = base.weight.double() if isinstance(base, nn.Linear) else base.weight.double().T
    expected = x.double() @ (weight + update).T + base.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)


def test_merged_equals_unmerged_and_twice_changes_nothing(base, x):
    layer = tuned(base)
    original, unmerged = base.weight.clone(), layer(x)
    layer.merge()
    once = base.weight.clone()
    assert not torch.equal(once, original)
    torch.testing.assert_close(layer(x), unmerged, atol=1e-5, rtol=1e-5)
    layer.merge()
    assert torch.equal(base.weight, once)
    for _ in range(2):
        layer.unmerge()
        assert torch.equal(base.weight, original)
        assert torch.equal(layer(x), unmerged)


def test_a_bfloat16_base_survives_merging_bit_for_bit(base):
    layer = tuned(base.bfloat16())
    original = base.weight.clone()
    layer.merge()
    assert base.weight.dtype == torch.bfloat16
    layer.unmerge()
    assert torch.equal(base.weight, original)


def test_dropout_acts_on_the_update_in_training_alone(base, x):
    layer = tuned(base, dropout=0.5)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_adapters_are_float32_on_a_compressed_base(base, x, dropout):
    layer = tuned(base, dropout=dropout)
    expected = layer.eval()(x)
    base.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        layer.train()(x).sum().backward()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=0.1, rtol=0.05)
    trained = [p for p in layer.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {p.grad.dtype for p in trained} == {torch.float32}


def test_gradients_agree_with_finite_differences(base):
    layer = tuned(base).double()
    x = torch.randn(2, 3, IN, dtype=torch.float64, requires_grad=True)
    trained = [p for p in layer.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *trained))


def test_no_gradient_is_computed_without_need(base, x):
    layer = tuned(base)
    layer.lora_A.requires_grad_(False)
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.lora_A.grad is None
    assert layer.lora_B.grad is not None
    layer.requires_grad_(False)
    assert layer(x).grad_fn is None


def test_a_single_token_and_an_empty_batch(base):
    layer = tuned(base)
    assert layer(torch.randn(IN)).shape == (OUT,)
    assert layer(torch.randn(0, 7, IN)).shape == (0, 7, OUT)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank):
    with pytest.raises(ValueError, match="at least 1, found"):
        LoRALinear(nn.Linear(IN, OUT), rank, ALPHA)
