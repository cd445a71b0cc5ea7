import sys

import pytest
import torch
from torch import nn

from potstill.backbone import build_classifier
from potstill.config import LoRAConfig, TeacherConfig
from potstill.errors import MissingExtraError
from potstill.lora import adapters, inject, linear
from potstill.lora.linear import frozen_linear
from potstill.lora.quantised import QuantisedLinear, pack_weights, round_weights
from potstill.teacher import prepare

BITS = pytest.mark.parametrize("bits", [4, 8])


def gradients(model, batch):
    ids, mask = batch
    logits = model(input_ids=ids, attention_mask=mask).logits
    model.zero_grad()
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@BITS
def test_few_bits_stay_near_the_weight(bits):
    torch.manual_seed(0)
    weight = torch.randn(48, 80)
    linear = QuantisedLinear(weight, None, bits)
    error = (linear.weight - weight).norm() / weight.norm()
    assert 0 < error < {4: 0.12, 8: 0.01}[bits]
    assert linear.nbytes == weight.numel() * bits // 8 + weight.numel() // 64 * 4


@BITS
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "distilbert"])
@pytest.mark.parametrize("options", [{}, {"dora": True, "bias": "all"}], ids=str)
def test_packed_equals_rounded(family, bits, options, make_model, batch):
    """Logits and all gradients are those of a plain model with the rounded weights."""

    def results(reduce):
        model = make_model(family)
        reduce(model, bits)
        inject(model, LoRAConfig(rank=2, **options))
        torch.manual_seed(1)
        for _, adapter in adapters(model):
            nn.init.normal_(adapter.lora_A, std=0.1)
            nn.init.normal_(adapter.lora_B, std=0.1)
        return gradients(model, batch)

    expected_logits, expected = results(round_weights)
    logits, found = results(pack_weights)
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5 * float(expected[name].abs().max()), rtol=1e-4)


def test_the_matrices_of_the_blocks_are_packed_and_nothing_else(family, make_model):
    model = make_model(family)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    prepare(model, TeacherConfig(method="head", base_bits=8))
    packed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, QuantisedLinear)}
    assert packed
    assert all(len(shapes[name]) == 2 and any(part.isdigit() for part in name.split(".")) for name in packed)
    left = {name for name, _ in model.named_parameters()}
    assert left | packed == shapes.keys()
    in_blocks = {name for name in left if any(part.isdigit() for part in name.split("."))}
    assert all(len(shapes[name]) == 1 or "embed" in name or "bias" in name for name in in_blocks)


def test_autograd_keeps_no_unpacked_weight(monkeypatch):
    monkeypatch.setattr(linear, "_ONEDNN_IS_FASTER", True)  # with a weight that lies unpacked
    packed, x = QuantisedLinear(torch.randn(128, 160), None, 4), torch.randn(5, 160, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape), lambda _: None):
        frozen_linear(packed, x)
        assert not kept
        nn.Linear(160, 128).requires_grad_(False)(x)
    assert torch.Size([128, 160]) in kept or torch.Size([160, 128]) in kept  # what the hooks would have seen


@BITS
def test_under_autocast(bits):
    torch.manual_seed(0)
    linear = QuantisedLinear(torch.randn(32, 64), nn.Parameter(torch.randn(32)), bits)
    x = torch.randn(2, 5, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), linear(x), atol=0.2, rtol=0.02)
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32
    assert linear.bias.dtype == linear.bias.grad.dtype == torch.float32


def test_a_packed_weight_takes_no_update(make_model):
    model = make_model("llama")
    prepare(model, TeacherConfig(base_bits=4))
    _, adapter = next(adapters(model))
    with pytest.raises(TypeError, match="packed"):
        adapter.merge()


def test_the_file_that_weights_were_mapped_from_is_let_go(tiny_backbone):
    model = build_classifier(str(tiny_backbone), 2).model
    loaded = [parameter.data for parameter in model.parameters()]  # alive, so that no address is given out again
    pack_weights(model, 8)
    assert {tensor.data_ptr() for tensor in loaded}.isdisjoint(p.data_ptr() for p in model.parameters())


def test_a_missing_package_is_told_with_its_extra(monkeypatch, make_model):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"potstill\[quantise\]"):
        pack_weights(make_model("llama"), 4)
