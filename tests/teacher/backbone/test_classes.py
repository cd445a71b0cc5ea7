"""Fine-tuned checkpoints as backbones: their classes, and the texts of pairs that they tell apart."""

import json

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from potstill.config import LoRAConfig, RuntimeConfig, TransformerConfig
from potstill.data import Corpus, Examples
from potstill.export.merged import write_merged
from potstill.teacher.transformer import TransformerTeacher
from tiny_words import FAMILIES, IDS, VOCABULARY, tiny_tokenizer

CPU = RuntimeConfig(device="cpu", precision="32-true")
TEXTS = ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w1 w4")
SECONDS = ("w9", "w2 w3 w4 w5", "w1 w1 w1", "w50 w2")
NAMES = ("bad", "good", "neutral")
WITHOUT_TYPES = ["input_ids", "attention_mask"]
WITH_TYPES = [*WITHOUT_TYPES, "token_type_ids"]


def corpus_of(names, pairs=None):
    examples = Examples(TEXTS, np.array([0, 1, 2, 0]), pairs)
    return Corpus("tiny", "made up", names, examples, examples, examples)


def checkpoint(directory, make_model, names, family="bert", inputs=WITH_TYPES):
    """Save a classifier as `transformers` alone leaves it, its classes named in its own order."""
    config = AutoConfig.for_model(
        family, **FAMILIES.get(family, FAMILIES["bert"]), **IDS, vocab_size=len(VOCABULARY), num_labels=len(names)
    )
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape), alpha=0.3)
    model.save_pretrained(directory)
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s>:0 $A:0 </s>:0 $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save_pretrained(directory)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | {"model_input_names": inputs}))
    return model


def logits_of(directory, pairs=None, max_length=16):
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    seconds = None if pairs is None else list(pairs)
    batch = tokenizer(list(TEXTS), seconds, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits.numpy(), batch.keys()


def created(directory, corpus, max_length=16):
    config = TransformerConfig(backbone=str(directory), lora=LoRAConfig(rank=2))
    return TransformerTeacher.create(config, CPU, corpus, max_length, seed=0)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "llama", "gpt2", "deberta-v2"])
@pytest.mark.parametrize("names", [("neutral", "bad", "good"), ("good", "neutral", "bad")])
def test_head_for_the_same_classes_is_kept_in_their_order(family, names, tmp_path, make_model, capsys):
    checkpoint(tmp_path, make_model, names, family, inputs=WITHOUT_TYPES)
    expected, _ = logits_of(tmp_path)
    found = created(tmp_path, corpus_of(NAMES)).logits(corpus_of(NAMES).train)
    np.testing.assert_allclose(found, expected[:, [names.index(name) for name in NAMES]], rtol=1e-4, atol=1e-4)
    assert "is new" not in capsys.readouterr().err


def test_classes_that_are_numbers_are_compared_as_strings(tmp_path, make_model):
    checkpoint(tmp_path, make_model, (2, 0, 1))
    expected, _ = logits_of(tmp_path)
    found = created(tmp_path, corpus_of(("0", "1", "2"))).logits(corpus_of(NAMES).train)
    np.testing.assert_allclose(found, expected[:, [1, 2, 0]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1", "LABEL_2"), ("joy", "fear", "anger"), ("bad", "good")])
def test_head_for_other_classes_is_drawn_anew_and_said(names, tmp_path, make_model, capsys):
    model = checkpoint(tmp_path, make_model, names)
    teacher = created(tmp_path, corpus_of(NAMES))
    head = teacher.classifier.model.get_submodule("classifier")
    assert head.weight.shape == (3, 16)
    assert not any(torch.isin(row, model.get_submodule("classifier").weight).any() for row in head.weight)
    assert 0 < head.weight.std() < 0.05
    said = capsys.readouterr().err
    assert f"classifies into {', '.join(map(repr, names))}, not 'bad', 'good', 'neutral'" in said
    teacher.save(tmp_path / "teacher")
    TransformerTeacher.load(tmp_path / "teacher", CPU)
    assert "is new" not in capsys.readouterr().err


def test_backbone_without_a_head_says_nothing(model_directory, capsys):
    created(model_directory("bert"), corpus_of(NAMES))
    assert "is new" not in capsys.readouterr().err


@pytest.mark.parametrize("family", ["bert", "albert", "electra", "roberta"])
@pytest.mark.parametrize("max_length", [16, 7])
def test_pairs_are_read_as_transformers_reads_them(family, max_length, tmp_path, make_model):
    inputs = WITHOUT_TYPES if family == "roberta" else WITH_TYPES
    checkpoint(tmp_path / "base", make_model, NAMES, family, inputs=inputs)
    corpus = corpus_of(NAMES, SECONDS)
    expected, keys = logits_of(tmp_path / "base", SECONDS, max_length)
    assert ("token_type_ids" in keys) == (family != "roberta")
    teacher = created(tmp_path / "base", corpus, max_length)
    for cached in (False, True, True):
        np.testing.assert_allclose(teacher.logits(corpus.train, cached=cached), expected, rtol=1e-4, atol=1e-4)
    batch = teacher.featurise(corpus.train).batch(np.arange(4))
    assert (batch.token_type_ids is None) == (family == "roberta")
    if batch.token_type_ids is not None:
        assert batch.token_type_ids.max() == 1
        assert not batch.token_type_ids[batch.attention_mask == 0].any()
        assert torch.equal(batch.to(torch.device("cpu")).inputs[-1], batch.token_type_ids)

    teacher.save(tmp_path / "teacher")
    write_merged(tmp_path / "teacher", tmp_path / "merged")
    found, _ = logits_of(tmp_path / "merged", SECONDS, max_length)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_tokenizer_that_leaves_token_types_out_is_obeyed(tmp_path, make_model):
    checkpoint(tmp_path, make_model, NAMES, inputs=WITHOUT_TYPES)
    corpus = corpus_of(NAMES, SECONDS)
    expected, _ = logits_of(tmp_path, SECONDS)
    without = created(tmp_path, corpus)
    np.testing.assert_allclose(without.logits(corpus.train), expected, rtol=1e-4, atol=1e-4)
    checkpoint(tmp_path, make_model, NAMES)
    assert created(tmp_path, corpus).key != without.key
