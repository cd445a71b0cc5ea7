import shutil

import pytest
import torch
from adapted import step, tuned

from potstill.backbone import FrozenPrefix

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
]


def test_compiled_blocks_give_the_same_logits_and_gradients(make_model, batch):
    classifier = tuned(make_model("llama"), last_blocks=1)
    logits, gradients = step(classifier, *batch)
    classifier.prefix = FrozenPrefix.find(classifier)
    classifier.compile_blocks()
    torch._dynamo.reset()  # or what another test has compiled would do
    torch._dynamo.utils.counters.clear()
    compiled_logits, compiled_gradients = step(classifier, *batch)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(compiled_logits, logits, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled_gradients[name], gradient, rtol=1e-3, atol=1e-5)
