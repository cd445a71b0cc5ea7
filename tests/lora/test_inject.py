import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from potstill.backbone import TextClassifier, head_modules
from potstill.config import LoRAConfig
from potstill.errors import ConfigError
from potstill.lora import LoRALinear, adapters, inject, merge_adapters, unmerge_adapters
from potstill.lora.counting import parameter_groups

LINEAR_MAPS_PER_BLOCK = {"gpt2": 4, "llama": 7, "qwen2": 7, "gpt_neox": 4, "bloom": 4, "modernbert": 4, "deberta-v2": 8}
HEADS = {
    "bert": {"classifier", "bert.pooler"},
    "albert": {"classifier", "albert.pooler"},
    "distilbert": {"pre_classifier", "classifier"},
    "modernbert": {"head", "classifier"},
    "deberta-v2": {"pooler", "classifier"},
    "roberta": {"classifier"},
    "mpnet": {"classifier"},
}


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_targets_and_head_are_found_by_structure(family, make_model):
    model = make_model(family)
    blocks = 1 if family == "albert" else 2  # ALBERT's blocks share their weights
    assert len(inject(model, LoRAConfig(rank=2))) == blocks * LINEAR_MAPS_PER_BLOCK.get(family, 6)
    assert head_modules(model).keys() == HEADS.get(family, {"score"})


def test_the_adapted_model_starts_as_the_base(family, make_model, batch):
    model = make_model(family)
    classifier = TextClassifier(model, 1)
    before = classifier(*batch)
    inject(model, LoRAConfig(rank=2))
    assert torch.equal(classifier(*batch), before)


@pytest.mark.parametrize("train_layernorm", [False, True])
def test_a_step_changes_nothing_but_what_is_trained(family, make_model, batch, train_layernorm):
    model = make_model(family)
    inject(model, LoRAConfig(rank=2, train_layernorm=train_layernorm))
    trained = trained_names(model)
    norms = {name for name in trained if "norm" in name.lower() or ".ln_" in name}
    head = tuple(f"{name}." for name in head_modules(model))
    if not train_layernorm:
        assert all(name.endswith((".lora_A", ".lora_B")) or name.startswith(head) for name in trained)
    else:
        assert norms

    nn.init.normal_(next(adapter for _, adapter in adapters(model)).lora_B)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    logits = TextClassifier(model, 1).train()(*batch)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= trained
    assert any(name.startswith(head) for name in changed)
    assert {name for name, _ in adapters(model)} <= {name.removesuffix(".lora_B") for name in changed}


def test_merged_logits_equal_unmerged_ones(family, make_model, batch):
    model = make_model(family)
    inject(model, LoRAConfig(rank=2))
    for _, adapter in adapters(model):
        nn.init.normal_(adapter.lora_B, std=0.1)
    classifier = TextClassifier(model, 1)
    with torch.no_grad():
        unmerged = classifier(*batch)
        merge_adapters(model)
        torch.testing.assert_close(classifier(*batch), unmerged, atol=1e-4, rtol=1e-4)
        unmerge_adapters(model)
        torch.testing.assert_close(classifier(*batch), unmerged, atol=1e-4, rtol=1e-4)


def test_patterns_choose_among_the_linear_maps(make_model):
    model = make_model("llama")
    targets = inject(model, LoRAConfig(targets=("*.q_proj", "model.layers.1.mlp.*")))
    layer = "model.layers.1.mlp."
    assert sorted(targets) == [
        "model.layers.0.self_attn.q_proj",
        layer + "down_proj",
        layer + "gate_proj",
        layer + "up_proj",
        "model.layers.1.self_attn.q_proj",
    ]
    assert all(isinstance(model.get_submodule(name), LoRALinear) for name in targets)


def test_patterns_without_a_match_are_all_named_and_nothing_is_changed(make_model):
    model = make_model("gpt2")
    with pytest.raises(ConfigError) as caught:
        inject(model, LoRAConfig(targets=("*.q_proj", "*.c_attn", "score")))
    assert len(caught.value.problems) == 2
    assert "'*.q_proj'" in str(caught.value)
    assert "transformer.h.0.attn.c_attn" in str(caught.value)  # what it could have been
    assert all(p.requires_grad for p in model.parameters())


def test_the_reference_experiments_counts_fall_out_of_gpt2s_defaults():
    with torch.device("meta"):  # shapes without memory
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("gpt2", num_labels=2))
        inject(model, LoRAConfig(rank=4, train_layernorm=True))
    assert parameter_groups(model) == {
        "backbone": (124_439_808 - 38_400, 0),
        "normalisation": (38_400, 38_400),
        "adapters": (589_824, 589_824),
        "head": (1_536, 1_536),
    }
    assert sum(p.numel() for p in model.parameters()) == 125_031_168
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 629_760
