import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from potstill.backbone import TextClassifier
from potstill.backbone.attention import EAGER, SHORT, attend_to_short_texts, short_attention

BATCH, LENGTH, SIZE = 3, 5, 8


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)])
def test_it_is_attention_and_so_are_its_gradients(heads, groups, masked):
    generator = torch.Generator().manual_seed(0)
    shapes = [(BATCH, heads, LENGTH, SIZE), *[(BATCH, groups, LENGTH, SIZE)] * 2]
    inputs = [torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]
    mask = None
    if masked:
        mask = torch.full((BATCH, 1, LENGTH, LENGTH), -1e9, dtype=torch.float64).triu(1)
        mask[1, ..., 3:] = -1e9
    ours, weights = short_attention(nn.Identity(), *inputs, mask, scaling=0.3)
    wanted = scaled_dot_product_attention(*inputs, attn_mask=mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)  # its softmax is float32's, as in transformers
    assert weights.shape == (BATCH, heads, LENGTH, LENGTH)
    by_ours = torch.autograd.grad(ours.square().sum(), inputs)
    for found, right in zip(by_ours, torch.autograd.grad(wanted.square().sum(), inputs), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


def test_without_a_scale_it_takes_the_usual_one():
    q, k, v = torch.randn(3, 2, 2, LENGTH, SIZE)
    torch.testing.assert_close(
        short_attention(nn.Identity(), q, k, v, None)[0], scaled_dot_product_attention(q, k, v).transpose(1, 2)
    )


def test_dropout_is_for_training():
    q, k, v = torch.randn(3, 2, 2, LENGTH, SIZE)
    module = nn.Identity()
    plain, _ = short_attention(module.eval(), q, k, v, None, dropout=0.5)
    dropped, weights = short_attention(module.train(), q, k, v, None, dropout=0.5)
    assert not torch.equal(plain, dropped)
    assert (weights == 0).any()


@pytest.mark.parametrize("mode", [True, False])
def test_a_model_computes_what_it_did(family, make_model, batch, mode):
    model = make_model(family)
    if model._can_set_attn_implementation():
        model.set_attn_implementation(EAGER)
    classifier = TextClassifier(model, 1).eval()
    with torch.no_grad():
        expected = classifier(*batch)
        classifier.train(mode)
        attend_to_short_texts(classifier)
        assert classifier.training is mode
        classifier.eval()
        torch.testing.assert_close(classifier(*batch), expected, rtol=1e-4, atol=1e-4)


def test_the_usual_families_take_it(make_model):
    for family in ("gpt2", "llama", "qwen2", "opt", "gpt_neox", "bert"):
        model = make_model(family)
        model.config.pad_token_id = None  # as in most decoders' checkpoints
        attend_to_short_texts(TextClassifier(model, 1))
        assert model.config._attn_implementation == SHORT, family


@pytest.mark.parametrize("beyond", ["softcap", "s_aux"])
def test_more_than_attention_is_refused(beyond):
    q, k, v = torch.randn(3, 2, 2, LENGTH, SIZE)
    with pytest.raises(TypeError, match=beyond):
        short_attention(nn.Identity(), q, k, v, None, **{beyond: 50.0})


def test_a_family_with_another_attention_keeps_its_own(make_model, monkeypatch):
    model = make_model("llama")
    attention = model.model.layers[0].self_attn
    own = type(attention).forward

    def capped(self, *args, **kwargs):
        if self.config._attn_implementation == EAGER:  # does what it tells no one
            args = (args[0] * 1.5, *args[1:]) if args else args
            kwargs = {k: v * 1.5 if k == "hidden_states" else v for k, v in kwargs.items()}
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(attention), "forward", capped)
    attend_to_short_texts(TextClassifier(model, 1))
    assert model.config._attn_implementation == EAGER
