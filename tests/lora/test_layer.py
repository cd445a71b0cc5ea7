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
    assert torch.equal(LoRALinear(base, RANK, ALPHA)(x), expected)


def test_only_the_adapter_is_trainable(base):
    layer = LoRALinear(base, RANK, ALPHA)
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    assert layer.lora_A.shape == (RANK, IN)
    assert layer.lora_B.shape == (OUT, RANK)


def test_the_update_follows_the_paper(base, x):
    layer = tuned(base)
    update = (ALPHA / RANK) * layer.lora_B.double() @ layer.lora_A.double()  # (out, in)
    weight = base.weight.double() if isinstance(base, nn.Linear) else base.weight.double().T
    expected = x.double() @ (weight + update).T + base.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        layer.delta().double(), update if isinstance(base, nn.Linear) else update.T, atol=1e-6, rtol=1e-5
    )


def test_merged_equals_unmerged_and_twice_changes_nothing(base, x):
    layer = tuned(base)
    original, unmerged = base.weight.clone(), layer(x)
    layer.merge()
    once = base.weight.clone()
    assert not torch.equal(once, original)
    torch.testing.assert_close(layer(x), unmerged, atol=1e-5, rtol=1e-5)
    layer.merge()
    assert torch.equal(base.weight, once)
    layer.unmerge()
    torch.testing.assert_close(base.weight, original, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(layer(x), unmerged, atol=1e-5, rtol=1e-5)
    restored = base.weight.clone()
    layer.unmerge()
    assert torch.equal(base.weight, restored)


def test_dropout_acts_on_the_update_in_training_alone(base, x):
    layer = tuned(base, dropout=0.5)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_adapters_are_float32_on_a_compressed_base(base, x):
    layer = LoRALinear(base.bfloat16(), RANK, ALPHA)
    assert layer.lora_A.dtype == layer.lora_B.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x).sum().backward()
    assert layer.lora_B.grad.dtype == torch.float32


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank):
    with pytest.raises(ValueError, match="at least 1, found"):
        LoRALinear(nn.Linear(IN, OUT), rank, ALPHA)
