"""What the last block leaves undone, and that nobody misses it."""

import shutil

import pytest
import torch
from adapted import step, tuned

from potstill.backbone.blocks import block_names
from potstill.backbone.echo import Echo
from potstill.backbone.top import TopBlock

ALONE = {
    "gpt2": {"attn.c_proj", "mlp"},
    "llama": {"self_attn.q_proj", "self_attn.o_proj", "mlp"},
    "qwen2": {"self_attn.q_proj", "self_attn.o_proj", "mlp"},
    "gemma": {"self_attn.q_proj", "self_attn.o_proj", "mlp"},
    "opt": {"self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"},
    "gpt_neox": {"attention.dense", "mlp"},
    "bloom": {"self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
}


def require_equal(classifier, batch, expected):
    logits, gradients = step(classifier, *batch)
    torch.testing.assert_close(logits, expected[0], rtol=1e-4, atol=1e-5)
    assert gradients.keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5 * max(largest, 1.0))


def last_block(classifier):
    return classifier.model.get_submodule(block_names(classifier.model)[-1])


def test_a_trial_tells_which_parts_take_each_token_by_itself(family, make_model):
    classifier = tuned(make_model(family))
    names = {id(module): name for name, module in last_block(classifier).named_modules()}
    top = TopBlock.find(classifier)
    found = set() if top is None else {names[id(part)] for part in top.parts}
    assert found == ALONE.get(family, set())


@pytest.mark.parametrize("echo", [None, Echo(separator=(9,))])
@pytest.mark.parametrize("family", sorted(ALONE))
def test_logits_and_gradients_stay_what_they_were(family, echo, make_model, batch):
    classifier = tuned(make_model(family))
    classifier.echo = echo
    expected = step(classifier, *batch)
    classifier.top = TopBlock.find(classifier)
    require_equal(classifier, batch, expected)


def test_the_parts_compute_no_more_than_is_read(make_model, batch):
    classifier = tuned(make_model("llama"))
    classifier.top = TopBlock.find(classifier)
    computed = []
    for adapter in ("mlp.up_proj", "self_attn.q_proj", "self_attn.k_proj"):
        hooked = last_block(classifier).get_submodule(adapter)
        own = hooked._add_update
        hooked._add_update = lambda y, x, own=own: computed.append(len(x)) or own(y, x)
    classifier(*batch)
    texts, length = batch[0].shape
    assert sorted(computed) == [texts, texts, texts * length]


def test_states_are_those_of_all_tokens(make_model, batch):
    classifier = tuned(make_model("llama"))
    with torch.no_grad():
        expected = classifier.states(*batch)
        classifier.top = TopBlock.find(classifier)
        classifier(*batch)
        torch.testing.assert_close(classifier.states(*batch), expected)


def test_a_failed_pass_leaves_nothing_behind(make_model, batch):
    classifier = tuned(make_model("llama"))
    classifier.top = TopBlock.find(classifier)
    expected = classifier.states(*batch)
    with pytest.raises(IndexError):
        classifier(batch[0] + 10_000, batch[1])
    torch.testing.assert_close(classifier.states(*batch), expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_block_leaves_it_undone_too(make_model, batch):
    classifier = tuned(make_model("llama"))
    expected, states = step(classifier, *batch), classifier.states(*batch).detach()
    classifier.top = TopBlock.find(classifier)
    classifier.compile_blocks()
    torch._dynamo.reset()  # or what another test has compiled would do
    torch._dynamo.utils.counters.clear()
    require_equal(classifier, batch, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    with torch.no_grad():
        torch.testing.assert_close(classifier.states(*batch), states, rtol=1e-4, atol=1e-5)
