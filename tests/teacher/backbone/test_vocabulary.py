"""Tokens without a row in the backbone's embeddings are found before anything is tuned."""

import json
import re
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from potstill.augment.language_model import check_writer
from potstill.config import PotstillConfig, RuntimeConfig, TransformerConfig
from potstill.data import Corpus, Examples
from potstill.errors import ConfigError, SourceError
from potstill.student.embeddings import teacher_embeddings
from potstill.teacher.backbone.sources import load_tokenizer
from potstill.teacher.transformer import TransformerTeacher

EXAMPLES = Examples(("w1 w2", "w3 <image>", ""), np.array([0, 1, 0]))
CORPUS = Corpus("tiny", "made up", ("bad", "good"), EXAMPLES, EXAMPLES, EXAMPLES)
ADDED = {
    "padding": lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "[PAD]"}),
    "beginning": lambda tokenizer: tokenizer.add_special_tokens({"bos_token": "[BOS]"}),
    "word": lambda tokenizer: tokenizer.add_tokens(["@USER"]),
}


@pytest.fixture
def backbone(model_directory, tmp_path):
    """A decoder whose tokenizer adds no special token by itself."""
    directory = shutil.copytree(model_directory("llama"), tmp_path / "backbone")
    content = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    return directory


def extended(directory, add):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    add(tokenizer)
    tokenizer.save_pretrained(directory)
    return TransformerConfig(backbone=str(directory))


@pytest.mark.parametrize(("kind", "token"), [("padding", "[PAD]"), ("beginning", "[BOS]"), ("word", "@USER")])
def test_token_without_an_embedding_is_refused_by_name(kind, token, backbone):
    config = extended(backbone, ADDED[kind])
    remedy = "remove the tokens without an embedding from .*resize_token_embeddings"
    named = rf"the tokenizer has 65 tokens, .* knows 64; {remedy}.*without an embedding: '{re.escape(token)}' \(id 64\)"
    with pytest.raises(ConfigError, match=named):
        TransformerTeacher.check(config)
    with pytest.raises(ConfigError, match=r"\(id 64\)"):
        TransformerTeacher.create(config, RuntimeConfig(device="cpu"), CORPUS, 16, 0)
    with pytest.raises(ConfigError, match=r"\(id 64\)"):
        check_writer(PotstillConfig(teacher=config))


def test_special_token_that_no_text_gets_needs_no_embedding(backbone):
    """Gemma's tokenizer has one for images; a text that spells it is text."""
    config = extended(backbone, lambda tokenizer: tokenizer.add_tokens(["<image>"], special_tokens=True))
    TransformerTeacher.check(config)
    check_writer(PotstillConfig(teacher=config))
    teacher = TransformerTeacher.create(config, RuntimeConfig(device="cpu"), CORPUS, 16, 0)
    assert np.isfinite(teacher.logits(EXAMPLES)).all()
    rules = load_tokenizer(config.backbone).backend_tokenizer
    counts = np.ones(65, np.int64)
    table = teacher_embeddings(rules, counts, 4, 1, config.backbone, config.backbone)
    assert not table[64].any()
    assert table[63].any()


def test_beginning_without_an_embedding_is_no_matter_where_it_is_not_added(backbone):
    config = extended(backbone, ADDED["beginning"]).model_copy(update={"add_bos": False})
    TransformerTeacher.check(config)


@pytest.mark.parametrize(
    "model",
    [models.WordLevel({"a": 0, "b": 1}), models.WordPiece({"a": 0, "b": 1}), models.Unigram([("a", 0.0), ("b", 0.0)])],
    ids=lambda model: type(model).__name__,
)
def test_tokenizer_without_an_unknown_token_is_refused(model, tmp_path):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="a").save_pretrained(tmp_path)
    with pytest.raises(SourceError, match=r"without a token for unknown ones.*\n  what to do: add that token"):
        load_tokenizer(str(tmp_path))
