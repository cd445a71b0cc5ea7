from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from potstill.backbone import TextClassifier
from potstill.backbone.trees import reads_trees
from potstill.config import LoRAConfig
from potstill.data.tokenised import TokenisedTexts, TrainingSet
from potstill.lora import inject
from potstill.training.inference import predict_logits

TAKE_TREES = {"gpt2", "llama", "qwen2", "gemma", "opt", "gpt_neox"}


@pytest.fixture
def data():
    """Texts that share beginnings, some of them whole."""
    generator = np.random.default_rng(0)
    starts = [generator.integers(6, 16, 8) for _ in range(4)]
    texts = [np.concatenate([starts[n % 4][: 1 + n % 8], generator.integers(6, 16, n % 3)]) for n in range(60)]
    tokens = TokenisedTexts(np.concatenate(texts).astype(np.int32), np.cumsum([0, *map(len, texts)], dtype=np.int64))
    labels = torch.from_numpy(generator.integers(0, 3, len(texts)))
    return TrainingSet(tokens, labels, padding_id=1, teacher_logits=torch.randn(len(texts), 3))


def test_a_trial_tells_who_takes_trees(family, make_model):
    assert reads_trees(TextClassifier(make_model(family), 1).eval()) == (family in TAKE_TREES)


@pytest.mark.parametrize("family", sorted(TAKE_TREES))
def test_logits_are_those_of_a_pass_over_texts(family, make_model, data):
    classifier = TextClassifier(make_model(family), 1)
    classifier.model.set_attn_implementation("eager")
    fabric = Fabric(accelerator="cpu")
    by_trees = predict_logits(classifier, replace(data, as_trees=True), fabric)
    torch.testing.assert_close(by_trees, predict_logits(classifier, data, fabric), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", sorted(TAKE_TREES))
def test_gradients_are_those_of_a_pass_over_texts(family, make_model, data):
    model = make_model(family)
    inject(model, LoRAConfig(rank=2))
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.1)
    classifier = TextClassifier(model, 1).eval()  # nothing is dropped

    def gradients(part):
        classifier.zero_grad()
        batch = part.batch(np.arange(3, 40))
        torch.nn.functional.cross_entropy(classifier(*batch.inputs), batch.labels).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    plain, by_trees = gradients(data), gradients(replace(data, as_trees=True))
    for name, gradient in plain.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(by_trees[name], gradient, rtol=1e-3, atol=1e-4 * max(largest, 1e-3))


def test_a_batch_of_trees_keeps_the_order_of_its_texts(data):
    texts = np.array([7, 3, 50])
    plain, trees = data.batch(texts), replace(data, as_trees=True).batch(texts)
    assert torch.equal(plain.labels, trees.labels)
    assert torch.equal(plain.teacher_logits, trees.teacher_logits)
    for text, row, end in zip(texts, *trees.ends, strict=True):
        assert trees.input_ids[row, end] == data.tokens[text][-1]


@pytest.mark.parametrize("setting", [{"sliding_window": 4}, {"layer_types": ["full_attention", "sliding_attention"]}])
def test_who_sees_no_further_than_a_window_takes_none(setting, make_model):
    model = make_model("llama")
    for name, value in setting.items():
        setattr(model.config, name, value)
    assert not reads_trees(TextClassifier(model, 1))


def test_states_and_trees_do_not_go_together(data):
    states = np.zeros((len(data.tokens.ids), 2), dtype=np.float32)
    with pytest.raises(ValueError, match="expected none beside trees"):
        replace(data, as_trees=True, states=states).batch([0, 1])
