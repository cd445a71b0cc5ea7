import pytest
import torch
from adapted import PADDING_ID, step, tuned
from torch import nn

from potstill.backbone import FrozenPrefix, TextClassifier, head_modules
from potstill.backbone.blocks import block_names


@pytest.fixture
def resumable(family):
    """A family whose passes can be resumed: ALBERT runs its one block again and again."""
    if family == "albert":
        pytest.skip("see test_shared_blocks_are_not_recalled")
    return family


def head_only(model):
    model.requires_grad_(False)
    for module in head_modules(model).values():
        module.requires_grad_(True)
    return TextClassifier(model, PADDING_ID).eval()


def test_recalled_states_give_the_same_logits_and_gradients(resumable, make_model, batch):
    classifier = tuned(make_model(resumable), last_blocks=1)
    whole, expected = step(classifier, *batch)
    classifier.prefix = prefix = FrozenPrefix.find(classifier)
    assert prefix is not None
    assert len(prefix.blocks) == len(block_names(classifier.model)) - 1

    states = prefix.states(*batch)
    assert states.shape[:2] == batch[0].shape
    torch.testing.assert_close(classifier(*batch, states), whole, rtol=1e-5, atol=1e-6)
    _, found = step(classifier, *batch, states)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(classifier(*batch), whole)  # the blocks compute again


def test_a_frozen_base_is_recalled_whole(resumable, make_model, batch):
    classifier = head_only(make_model(resumable))
    whole = classifier(*batch)
    classifier.prefix = prefix = FrozenPrefix.find(classifier)
    assert len(prefix.blocks) == len(block_names(classifier.model))
    torch.testing.assert_close(classifier(*batch, prefix.states(*batch)), whole, rtol=1e-5, atol=1e-6)


def test_shared_blocks_are_not_recalled(make_model):
    assert FrozenPrefix.find(head_only(make_model("albert"))) is None


@pytest.mark.parametrize("lora", [{}, {"last_blocks": 1, "bias": "all"}, {"last_blocks": 1, "train_layernorm": True}])
def test_nothing_is_recalled_where_the_first_block_is_trained(make_model, lora):
    assert FrozenPrefix.find(tuned(make_model("gpt2"), **lora)) is None


def test_nothing_is_recalled_behind_trained_embeddings(make_model):
    classifier = tuned(make_model("gpt2"), last_blocks=1)
    classifier.model.get_input_embeddings().requires_grad_(True)
    assert FrozenPrefix.find(classifier) is None


def test_frozen_blocks_drop_nothing_while_the_rest_trains(make_model):
    classifier = tuned(make_model("gpt2"), last_blocks=1)
    classifier.prefix = FrozenPrefix.find(classifier)
    classifier.train()
    first, last = (classifier.model.get_submodule(block_names(classifier.model)[index]) for index in (0, -1))
    dropouts = [module for module in classifier.model.base_model.modules() if isinstance(module, nn.Dropout)]
    training = {id(module) for module in last.modules()}
    assert dropouts
    assert all(module.training == (id(module) in training) for module in dropouts)
    assert not first.training
