import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from potstill.errors import ConfigError
from potstill.lora.blocks import block_names, keep_first_layers


@torch.no_grad()
def test_what_is_kept_is_the_model_that_has_no_more_blocks(family, make_model, batch):
    if family == "albert":
        pytest.skip("see test_blocks_that_are_one_are_refused")
    whole, model = make_model(family), make_model(family)
    keep_first_layers(model, 1)
    assert block_names(model) == block_names(whole)[:1]
    dropped = tuple(f"{name}." for name in block_names(whole)[1:])
    kept = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith(dropped)}
    smaller = AutoModelForSequenceClassification.from_config(model.config).eval()
    smaller.load_state_dict(kept)
    inputs = dict(zip(("input_ids", "attention_mask"), batch, strict=True))
    logits = model(**inputs).logits
    assert torch.equal(logits, smaller(**inputs).logits)
    assert not torch.allclose(logits, whole(**inputs).logits, atol=1e-2)


@torch.no_grad()
def test_all_blocks_are_the_model(make_model, batch):
    model = make_model("qwen2")
    expected = model(*batch).logits
    keep_first_layers(model, 2)
    assert torch.equal(model(*batch).logits, expected)


def test_settings_of_each_block_are_cut_too(make_model):
    model = make_model("qwen2")
    assert len(model.config.layer_types) == 2
    keep_first_layers(model, 1)
    assert len(model.config.layer_types) == model.config.num_hidden_layers == 1


def test_more_blocks_than_there_are_are_refused(make_model):
    with pytest.raises(ConfigError, match=r"teacher\.num_layers: the backbone has 2 blocks; found 3"):
        keep_first_layers(make_model("gpt2"), 3)


def test_settings_that_cannot_be_cut_are_refused():
    config = AutoConfig.for_model("gpt_neo", num_layers=2, attention_types=[[["global", "local"], 1]], hidden_size=16)
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ConfigError, match=r"the settings of 'gpt_neo' can't be cut to 1 blocks"):
        keep_first_layers(model, 1)


def test_blocks_that_are_one_are_refused(make_model):
    with pytest.raises(ConfigError, match=r"teacher\.num_layers: 'albert' has not one row of blocks"):
        keep_first_layers(make_model("albert"), 1)
