import shutil

import pytest
import torch

from potstill.backbone import FrozenPrefix, TextClassifier
from potstill.config import LoRAConfig
from potstill.lora import inject

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
]


def step(classifier, batch):
    classifier.zero_grad()
    logits = classifier(*batch)
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in classifier.named_parameters() if p.requires_grad}


def test_compiled_blocks_give_the_same_logits_and_gradients(make_model, batch):
    model = make_model("llama")
    inject(model, LoRAConfig(rank=2, last_blocks=1))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    classifier = TextClassifier(model, padding_id=1).eval()
    logits, gradients = step(classifier, batch)
    classifier.prefix = FrozenPrefix.find(classifier)
    classifier.compile_blocks()
    torch._dynamo.utils.counters.clear()
    compiled_logits, compiled_gradients = step(classifier, batch)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(compiled_logits, logits, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled_gradients[name], gradient, rtol=1e-3, atol=1e-5)
