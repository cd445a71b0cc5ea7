from contextlib import suppress

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from potstill.config import LoRAConfig
from potstill.errors import ConfigError
from potstill.lora import LoRALinear, absorb_adapters, adapters, inject, merged
from potstill.lora.blocks import head_modules
from potstill.lora.counting import parameter_groups
from potstill.teacher.backbone.classifier import TextClassifier

LINEAR_MAPS_PER_BLOCK = {
    "gpt2": 4,
    "llama": 7,
    "qwen2": 7,
    "gemma": 7,
    "gpt_neox": 4,
    "bloom": 4,
    "modernbert": 4,
    "deberta-v2": 8,
}
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
def test_the_base_is_frozen_and_a_step_changes_only_what_is_trained(family, make_model, batch, train_layernorm):
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
        with merged(model):
            torch.testing.assert_close(classifier(*batch), unmerged, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(classifier(*batch), unmerged, atol=1e-4, rtol=1e-4)
        absorb_adapters(model)
        assert not list(adapters(model))
        torch.testing.assert_close(classifier(*batch), unmerged, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("before", [False, True])
def test_merged_leaves_adapters_as_it_found_them_also_after_an_error(make_model, before):
    model = make_model("llama")
    inject(model, LoRAConfig(rank=2))
    found = [adapter for _, adapter in adapters(model)]
    for adapter in found * before:
        adapter.merge()
    with suppress(ZeroDivisionError), merged(model):
        assert all(adapter.merged for adapter in found)
        raise ZeroDivisionError
    assert all(adapter.merged == before for adapter in found)


def test_patterns_choose_among_the_linear_maps(make_model):
    model = make_model("llama")
    targets = inject(model, LoRAConfig(target_modules=("*.q_proj", "model.layers.1.mlp.*")))
    layer = "model.layers.1.mlp."
    assert sorted(targets) == [
        "model.layers.0.self_attn.q_proj",
        layer + "down_proj",
        layer + "gate_proj",
        layer + "up_proj",
        "model.layers.1.self_attn.q_proj",
    ]
    assert all(isinstance(model.get_submodule(name), LoRALinear) for name in targets)


def test_a_full_name_finds_a_map_outside_the_blocks(make_model):
    model = make_model("bert")
    assert inject(model, LoRAConfig(target_modules=("bert.pooler.dense",))) == ("bert.pooler.dense",)
    pooler = {name for name in trained_names(model) if "pooler" in name}
    assert pooler == {"bert.pooler.dense.lora_A", "bert.pooler.dense.lora_B"}


def test_blocks_below_the_first_adapter_need_no_gradient(make_model, batch):
    model = make_model("llama")
    inject(model, LoRAConfig(target_modules=("*.1.*",)))
    states = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, inputs, output: states.append(output))
    TextClassifier(model, 1)(*batch)
    assert [state.requires_grad for state in states] == [False, True]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"target_modules": ()}, "target_modules: expected all-linear or patterns, found none"),
        ({"target_modules": ("*.9.*",)}, r"target_modules: '\*\.9\.\*' matches none"),
        (
            {"target_modules": ("*.q_proj", "*.c_attn", "score")},
            r"'\*\.c_attn' .*layers\.0\.self_attn\.q_proj(.|\n)*'score'",
        ),
    ],
)
def test_targets_that_do_not_exist_are_refused_and_the_model_is_unchanged(make_model, settings, complaint):
    model = make_model("llama")
    with pytest.raises(ConfigError, match=complaint):
        inject(model, LoRAConfig(**settings))
    assert all(p.requires_grad for p in model.parameters())
    assert not list(adapters(model))


def test_the_reference_experiments_parameter_counts():
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
