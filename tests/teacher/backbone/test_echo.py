"""How texts are repeated; test_text_classifier.py tests how the second reading is classified."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from potstill.data.tokenised import TokenisedTexts
from potstill.teacher.backbone.echo import Echo


def make_tokenizer(template: str | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<m>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["a cat sat"], trainer)
    if template is not None:
        known = [(token, tokenizer.token_to_id(token)) for token in special]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=known)
    return tokenizer


@pytest.mark.parametrize(
    ("template", "opening", "closing", "twice"),
    [
        (None, 0, 0, "text break text"),
        ("<s> $A", 1, 0, "<s> text break text"),
        ("$A </s>", 0, 1, "text break text </s>"),
        ("<m> <s> $A </s>", 2, 1, "<m> <s> text break text </s>"),
    ],
)
def test_special_tokens_come_once_around_both_readings(template, opening, closing, twice):
    tokenizer = make_tokenizer(template)
    echo = Echo.of(tokenizer)
    assert (echo.opening, echo.closing) == (opening, closing)
    assert [*map(tokenizer.id_to_token, echo.separator)] == ["\u010a"]  # what byte-level tokenizers call a line break
    ids = tokenizer.encode("a cat").ids
    (found,) = echo.repeat(TokenisedTexts(np.array(ids), np.array([0, len(ids)])))
    parts = {"text": tokenizer.encode("a cat", add_special_tokens=False).tokens, "break": ["\u010a"]}
    expected = [token for part in twice.split() for token in parts.get(part, [part])]
    assert [*map(tokenizer.id_to_token, found)] == expected


def test_last_state_is_pooled_if_a_text_is_only_its_opening():
    echo = Echo(separator=(), opening=1)
    (found,) = echo.repeat(TokenisedTexts(np.array([7]), np.array([0, 1])))
    assert found.tolist() == [7]
    states = torch.randn(1, 3, 4)
    assert torch.equal(echo.pool(states, torch.tensor([1])), states[:, 0])
