from dataclasses import astuple

import numpy as np
import pytest
import torch

from potstill.data.tokenised import TokenisedTexts, TrainingSet
from potstill.errors import SourceError
from potstill.teacher.backbone.classifier import TextClassifier, build_classifier
from potstill.teacher.backbone.echo import Echo

PADDING_ID, EOS_ID = 1, 2


def padded(batch, side, pad_token_id):
    """Pad the batch's texts on a side, three positions more than the longest needs."""
    ids, mask = batch
    width = ids.shape[1] + 3
    out_ids, out_mask = torch.full((len(ids), width), pad_token_id), torch.zeros(len(ids), width, dtype=torch.long)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        real = slice(0, length) if side == "right" else slice(width - length, width)
        out_ids[row, real] = ids[row, :length]
        out_mask[row, real] = 1
    return out_ids, out_mask


@torch.no_grad()
def test_padding_changes_no_logit(family, make_model, batch):
    classifier = TextClassifier(make_model(family), PADDING_ID)
    ids, mask = batch
    alone = torch.cat(
        [
            classifier(ids[row : row + 1, :length], mask[row : row + 1, :length])
            for row, length in enumerate(mask.sum(dim=1).tolist())
        ]
    )
    assert alone.std(dim=0).min() > 1e-3, "the texts must be told apart for this test to mean anything"
    for side in ("right", "left"):
        torch.testing.assert_close(classifier(*padded(batch, side, PADDING_ID)), alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
def test_decoder_pools_the_last_real_token_though_it_is_the_padding_id(make_model, batch, side):
    classifier = TextClassifier(make_model("gpt2"), EOS_ID)
    ids = torch.cat([batch[0][:, :3], torch.full((3, 1), EOS_ID)], dim=1)  # three words and an end-of-text each
    mask = torch.ones_like(ids)
    torch.testing.assert_close(
        classifier(*padded((ids, mask), side, EOS_ID)), classifier(ids, mask), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_logits_equal_the_models_own_without_padding_tokens(family, make_model, batch):
    model = make_model(family)
    expected = model(input_ids=batch[0], attention_mask=batch[1]).logits
    torch.testing.assert_close(TextClassifier(model, PADDING_ID)(*batch), expected, atol=1e-5, rtol=1e-5)


def test_loaded_and_random_backbones_are_in_evaluation_mode(model_directory):
    name = str(model_directory("gpt2"))
    assert not build_classifier(name, 2).training
    assert not any(m.training for m in build_classifier(name, 2, random_init=True).modules())


def test_equal_seeds_give_equal_heads_on_the_saved_base(family, model_directory, make_model):
    directory = str(model_directory(family))
    built = []
    for _ in range(2):
        torch.manual_seed(7)
        built.append(build_classifier(directory, 5, PADDING_ID).model)
    one, two = (dict(model.named_parameters()) for model in built)
    assert all(torch.equal(p, two[name]) for name, p in one.items())
    base = make_model(family).base_model.state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in built[0].base_model.state_dict().items())


@pytest.mark.parametrize("name", ["t5", "bart", "xlnet", "ctrl", "modernbert-decoder"])
def test_architectures_that_would_pool_wrongly_are_refused(name):
    with pytest.raises(SourceError, match=f"expected a decoder with .* found '{name}'"):
        build_classifier(name, 2, random_init=True)


@pytest.mark.parametrize(("family", "longest"), [("gpt2", 40), ("bert", 40), ("roberta", 38), ("opt", 40)])
def test_longest_text_fits(family, longest, make_model):
    classifier = TextClassifier(make_model(family), PADDING_ID)
    assert classifier.max_length == longest
    ids = torch.full((1, longest), 5)
    assert classifier(ids, torch.ones_like(ids)).shape == (1, 3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma", "opt", "gpt_neox", "bloom"])
@pytest.mark.parametrize(
    "echo",
    [Echo(()), Echo((6,), 1), Echo((6, 8)), Echo((), 1), Echo((6,), 0, 1), Echo((6,), 1, 1), Echo((), 1, 1)],
    ids=str,
)
@torch.no_grad()
def test_echo_classifies_the_mean_of_the_second_reading(family, echo, make_model):
    classifier = TextClassifier(make_model(family), PADDING_ID).eval()
    classifier.echo, (separator, opening, closing) = echo, astuple(echo)
    texts = [[7, 8, 9, 10], [11, 7], [12, 13, 9]]
    tokens = echo.repeat(
        TokenisedTexts(np.concatenate(texts).astype(np.int32), np.cumsum([0, *map(len, texts)], dtype=np.int64))
    )
    assert [ids.tolist() for ids in tokens] == [
        [*text[: len(text) - closing], *separator, *text[opening:]] for text in texts
    ]
    batch = TrainingSet(tokens, torch.zeros(3, dtype=torch.long), PADDING_ID).batch(np.arange(3))
    logits = classifier(*batch.inputs)
    for row, text in enumerate(texts):
        again = text[opening:]
        twice = torch.tensor([[*text[: len(text) - closing], *separator, *again]])
        states = classifier.model.base_model(input_ids=twice).last_hidden_state[0]
        expected = classifier.model.get_submodule("score")(states[-len(again) :].mean(dim=0))
        torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=1e-4)
        assert echo.longest(twice.shape[1]) == echo.longest(twice.shape[1] + 1) == len(text)
    order = batch.attention_mask.argsort(dim=1, stable=True)  # the padding on the left
    left = [tensor.gather(1, order) for tensor in (batch.input_ids, batch.attention_mask)]
    torch.testing.assert_close(classifier(*left), logits, atol=1e-4, rtol=1e-4)
