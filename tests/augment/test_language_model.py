"""The language model's loss against `transformers`' own, its sampling against the definition of the nucleus."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config

from potstill import load_corpus
from potstill.augment import language_model
from potstill.augment.language_model import LanguageModel, NextTokenLoss, draw
from potstill.config import PotstillConfig
from potstill.data import Corpus, Examples
from potstill.errors import SourceError
from potstill.lora import absorb_adapters


def corpus_of(texts, labels=None):
    labels = np.zeros(len(texts), np.int64) if labels is None else np.array(labels)
    part = Examples(tuple(texts), labels)
    return Corpus("tiny", "here", ("w1", "w2"), part, part, part)


@pytest.fixture
def backbone(model_directory):
    """A decoder whose output layer shares its embeddings: a checkpoint without a head is complete."""
    return model_directory("gpt2")


def settings(backbone, **unlabelled):
    runtime = {"device": "cpu", "precision": "32-true"}
    return PotstillConfig.build({"teacher": {"backbone": str(backbone)}, "augment": unlabelled, "runtime": runtime})


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox"])
def test_loss_equals_that_of_transformers(family, model_directory, batch):
    torch.manual_seed(0)  # some of them lack the output layer
    model = AutoModelForCausalLM.from_pretrained(model_directory(family)).eval()
    ids, mask = batch
    found = NextTokenLoss(model)(ids, mask)
    for row, (total, count) in enumerate(found):
        text = ids[[row]][:, : int(mask[row].sum())]
        assert count == text.shape[1] - 1
        torch.testing.assert_close(total / count, model(input_ids=text, labels=text).loss)


def test_softcapped_logits_of_gemma2():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8, "vocab_size": 50}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = AutoModelForCausalLM.from_config(Gemma2Config(**sizes, **heads, final_logit_softcapping=5.0)).eval()
    model.lm_head.weight.data.normal_(0.0, 4.0)
    ids = torch.randint(3, 50, (1, 9))
    found = NextTokenLoss(model)(ids, torch.ones_like(ids))
    torch.testing.assert_close(found[0, 0] / found[0, 1], model(input_ids=ids, labels=ids).loss)


@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 40),
    top_p=st.floats(0.05, 1.0),
    sharpness=st.sampled_from([0.1, 3.0]),
)
def test_drawn_tokens_are_in_the_nucleus(seed, size, top_p, sharpness):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, size, generator=generator) * sharpness
    probabilities = logits.softmax(dim=1)[0]
    order = probabilities.argsort(descending=True)
    needed = int((probabilities[order].cumsum(dim=0) < top_p - 1e-6).sum()) + 1
    drawn = {int(draw(logits, top_p, generator)) for _ in range(30)}
    assert drawn <= set(order[:needed].tolist())


def test_smallest_nucleus_of_a_flat_distribution():
    logits = torch.zeros(4, 1_000)
    logits[:, 7] = 0.01
    assert draw(logits, 1e-9, torch.Generator().manual_seed(0)).tolist() == [7, 7, 7, 7]


def test_tokens_are_drawn_by_their_probability_within_the_nucleus():
    logits = torch.tensor([0.5, 0.1, 0.25, 0.15]).log().repeat(20_000, 1)
    drawn = draw(logits, 0.8, torch.Generator().manual_seed(0)).bincount(minlength=4) / 20_000
    np.testing.assert_allclose(drawn, [0.5 / 0.9, 0.0, 0.25 / 0.9, 0.15 / 0.9], atol=0.015)


def test_tuning_changes_only_the_adapters_and_merging_no_logit(backbone, tmp_path, batch):
    config = settings(backbone, training={"epochs": 3, "learning_rate": 1e-2, "batch_size": 8})
    model = LanguageModel.load(config)
    before = {name: parameter.clone() for name, parameter in model.model.named_parameters()}
    model.tune(config, corpus_of(["w10 w11 w12", "w20 w21"] * 30, [0, 1] * 30), tmp_path)
    changed = {name for name, parameter in model.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(model.trained)
    assert all(".lora_" in name for name in changed)
    first, *_, last = map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines())
    assert last["validation_loss"] < first["validation_loss"]
    assert last["perplexity"] == pytest.approx(math.exp(last["validation_loss"]))
    expected = NextTokenLoss(model.model)(*batch)
    absorb_adapters(model.model)
    torch.testing.assert_close(NextTokenLoss(model.model)(*batch), expected)


def test_each_text_is_learnt_on_one_line_after_the_name_of_its_class(backbone):
    model = LanguageModel.load(settings(backbone))
    data = model.training_set(Examples(("w10\n w11", "w20"), np.array([1, 0])), ("w1", "w2"))
    expected = [model.tokenizer.encode(text).ids for text in ("w2\nw10 w11", "w1\nw20")]
    assert [ids.tolist() for ids in data.tokens] == expected


def test_text_that_is_cut_has_no_end_to_learn(backbone):
    model = replace(LanguageModel.load(settings(backbone)), max_length=8)
    texts = tuple(" ".join(f"w{number}" for number in range(words)) for words in range(2, 9))
    data = model.training_set(Examples(texts, np.zeros(len(texts), np.int64)), ("w1", "w2"))
    model.tokenizer.no_truncation()
    whole = [model.tokenizer.encode(f"w1\n{text}").ids for text in texts]
    assert {len(ids) for ids in whole} >= {8, 9}
    assert [ids.tolist() for ids in data.tokens] == [ids[:8] for ids in whole]


def test_seed_decides_the_sample(backbone):
    model = LanguageModel.load(settings(backbone))
    first, again, other = (list(model.sample("w1", 8, temperature=1.0, top_p=0.95, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_sampling_with_the_cache_equals_full_forward_passes(backbone, monkeypatch):
    """Each drawn token's logits are those of a plain forward pass over everything before it, rows gone or not."""
    model = LanguageModel.load(settings(backbone))
    seen = []

    def record(logits, top_p, generator):
        assert top_p == 0.5
        seen.append(logits.clone())
        chosen = draw(logits, top_p, generator)
        rows.append(chosen.clone())
        return chosen

    rows = []
    monkeypatch.setattr(language_model, "draw", record)
    list(model.sample("w1", 6, temperature=2.0, top_p=0.5, seed=3))
    assert len(rows[-1]) < len(rows[0]), "no text ended before the others: the test shows nothing"
    start = [model.bos_id, *model.tokenizer.encode("w1\n", add_special_tokens=False).ids]
    texts = [list(start) for _ in range(len(rows[0]))]
    for logits, chosen in zip(seen, rows, strict=True):
        with torch.inference_mode():
            whole = model.model(input_ids=torch.tensor(texts)).logits[:, -1]
        torch.testing.assert_close(logits, whole / 2, atol=1e-4, rtol=1e-4)
        texts = [[*text, int(token)] for text, token in zip(texts, chosen, strict=True) if token != model.eos_id]


def test_encoder_is_refused(model_directory):
    with pytest.raises(SourceError, match="expected a decoder"):
        LanguageModel.load(settings(model_directory("bert")))


@pytest.mark.slow
def test_builtin_model_writes_sentences(tmp_path):
    training = {"epochs": 1, "batch_size": 8}
    config = PotstillConfig.build(
        {"data": {"source": "builtin", "max_train_examples": 48}, "augment": {"training": training}}
    )
    model = replace(LanguageModel.load(config), max_length=60)  # enough for a sentence
    model.tune(config, load_corpus(config.data), tmp_path)
    absorb_adapters(model.model)
    written = list(model.sample("acceptable", 8, temperature=0.7, top_p=0.95, seed=0))
    assert sum(" " in text for text in written) >= 6
