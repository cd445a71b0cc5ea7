from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from potstill.backbone import TextClassifier, build_classifier
from potstill.backbone.surprisal import add_surprisal
from potstill.data.tokenised import TokenisedTexts, TrainingSet
from potstill.errors import ConfigError
from potstill.training.loop import predict_logits

PADDING_ID = 1
SUITABLE = ("gpt2", "opt", "gemma")


@pytest.fixture
def make_classifier(make_model):
    """Return a function that builds a classifier whose surprisal speaks up."""

    def make(family):
        model = make_model(family)
        model.config.tie_word_embeddings = True  # of such a model, the output layer would be the embeddings
        add_surprisal(model, 5)
        torch.manual_seed(2)
        for parameter in model.surprisal.parameters():
            torch.nn.init.normal_(parameter)
        return TextClassifier(model, PADDING_ID).eval()

    return make


@pytest.mark.parametrize("family", SUITABLE)
@torch.no_grad()
def test_it_speaks_by_the_formula_for_the_most_conspicuous_token(family, make_classifier, batch):
    classifier = make_classifier(family)
    surprisal, table = classifier.surprisal, classifier.model.get_input_embeddings().weight
    ids, mask = batch
    logits = classifier(ids, mask)
    del classifier.model.surprisal
    plain = classifier(ids, mask)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        text = ids[[row], :length]
        states = classifier.states(text, torch.ones_like(text))[0]
        found = []
        for place in range(length):
            before = states[place - 1] if place else torch.zeros(16)
            found.append(surprisal.compare(torch.cat([table[text[0, place]] * before, states[place]])).relu())
        evidence = surprisal.head(torch.stack(found).amax(dim=0))
        assert evidence.abs().max() > 0.1
        torch.testing.assert_close(logits[row], plain[row] + evidence, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", SUITABLE)
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(family, make_classifier, batch):
    classifier = make_classifier(family)
    ids, mask = batch
    expected = classifier(ids, mask)
    wider = [torch.nn.functional.pad(tensor, (0, 3), value=value) for tensor, value in ((ids, PADDING_ID), (mask, 0))]
    torch.testing.assert_close(classifier(*wider), expected, atol=1e-5, rtol=1e-5)
    order = wider[1].argsort(dim=1, stable=True)  # the real tokens last
    torch.testing.assert_close(
        classifier(wider[0].gather(1, order), wider[1].gather(1, order)), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("family", SUITABLE)
def test_trees_of_tokens_find_the_same(family, make_classifier):
    generator = np.random.default_rng(0)
    starts = [generator.integers(6, 16, 8) for _ in range(4)]
    texts = [np.concatenate([starts[n % 4][: 1 + n % 8], generator.integers(6, 16, n % 3)]) for n in range(60)]
    tokens = TokenisedTexts(np.concatenate(texts).astype(np.int32), np.cumsum([0, *map(len, texts)], dtype=np.int64))
    data = TrainingSet(tokens, torch.zeros(60, dtype=torch.long), PADDING_ID)
    classifier, fabric = make_classifier(family), Fabric(accelerator="cpu")
    by_trees = predict_logits(classifier, replace(data, as_trees=True), fabric)
    torch.testing.assert_close(by_trees, predict_logits(classifier, data, fabric), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "gpt_neox"])
def test_who_does_not_foretell_by_its_embeddings_is_refused(family, model_directory):
    with pytest.raises(ConfigError, match=r"teacher\.surprisal_size: expected a decoder whose output layer"):
        build_classifier(str(model_directory(family)), 2, surprisal_size=4)


def test_the_head_starts_as_it_would_without(model_directory):
    name, built = str(model_directory("gpt2")), []
    for size in (0, 4):
        torch.manual_seed(3)
        built.append(build_classifier(name, 3, surprisal_size=size).model)
    assert torch.equal(built[0].score.weight, built[1].score.weight)
    assert built[1].surprisal.head.out_features == 3
