import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from potstill.backbone import TextClassifier, head_modules
from potstill.config import LoRAConfig
from potstill.errors import ConfigError
from potstill.lora import LoRALinear, absorb_adapters, adapters, inject, merged
from potstill.lora.counting import parameter_groups

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
        with merged(model):
            torch.testing.assert_close(classifier(*batch), unmerged, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(classifier(*batch), unmerged, atol=1e-4, rtol=1e-4)
        absorb_adapters(model)
        assert not list(adapters(model))
        torch.testing.assert_close(classifier(*batch), unmerged, atol=1e-4, rtol=1e-4)


def test_what_is_merged_already_stays_merged(make_model):
    model = make_model("llama")
    inject(model, LoRAConfig(rank=2))
    for outer in (False, True):
        if outer:
            for _, adapter in adapters(model):
                adapter.merge()
        with merged(model):
            assert all(adapter.merged for _, adapter in adapters(model))
        assert all(adapter.merged == outer for _, adapter in adapters(model))


def test_an_error_parts_what_was_merged(make_model):
    model = make_model("llama")
    inject(model, LoRAConfig(rank=2))
    with pytest.raises(ZeroDivisionError), merged(model):
        raise ZeroDivisionError
    assert not any(adapter.merged for _, adapter in adapters(model))


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


def test_a_full_name_reaches_a_map_of_the_base_outside_its_blocks(make_model):
    model = make_model("bert")
    assert inject(model, LoRAConfig(targets=("bert.pooler.dense",))) == ("bert.pooler.dense",)
    pooler = {name for name in trained_names(model) if "pooler" in name}
    assert pooler == {"bert.pooler.dense.lora_A", "bert.pooler.dense.lora_B"}
    with pytest.raises(ConfigError, match=r"'bert\.pooler\.dense' matches none"):
        inject(make_model("bert"), LoRAConfig(targets=("bert.pooler.dense",), last_blocks=1))


def test_the_last_blocks_alone_are_adapted(family, make_model):
    model = make_model(family)
    blocks = 1 if family == "albert" else 2
    everything = inject(make_model(family), LoRAConfig())
    targets = inject(model, LoRAConfig(last_blocks=1))
    assert targets == everything[len(everything) * (blocks - 1) // blocks :]
    with pytest.raises(ConfigError, match=f"last_blocks: the model has {blocks} blocks; found {blocks + 1}"):
        inject(make_model(family), LoRAConfig(last_blocks=blocks + 1))


def test_earlier_blocks_are_not_computed_backwards(make_model, batch):
    model = make_model("llama")
    inject(model, LoRAConfig(last_blocks=1))
    states = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, inputs, output: states.append(output))
    TextClassifier(model, 1)(*batch)
    assert [state.requires_grad for state in states] == [False, True]


def test_the_first_pattern_that_matches_decides(make_model):
    model = make_model("llama")
    inject(
        model,
        LoRAConfig(
            rank=2,
            targets=("*.self_attn.*",),
            rank_pattern={"*.1.self_attn.q_proj": 5, "*.q_proj": 3},
            alpha_pattern={"*.v_proj": 1.5},
        ),
    )
    found = {name.removeprefix("model.layers.").replace(".self_attn", ""): a for name, a in adapters(model)}
    assert {name: adapter.rank for name, adapter in found.items()} == {
        **{"0.q_proj": 3, "0.k_proj": 2, "0.v_proj": 2, "0.o_proj": 2},
        **{"1.q_proj": 5, "1.k_proj": 2, "1.v_proj": 2, "1.o_proj": 2},
    }
    assert {name for name, adapter in found.items() if adapter.alpha == 1.5} == {"0.v_proj", "1.v_proj"}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"targets": ()}, "targets: expected all-linear or patterns, found none"),
        ({"rank_pattern": {"*.query": 3}}, r"rank_pattern: '\*\.query' matches none of the adapted modules, such as"),
        (
            {"alpha_pattern": {"*.1.*": 3}, "last_blocks": 1, "targets": ("*.0.*",)},
            r"targets: '\*\.0\.\*' matches none",
        ),
        ({"alpha_pattern": {"*.0.*": 3}, "last_blocks": 1}, r"alpha_pattern: '\*\.0\.\*' matches none"),
        ({"init": "pissa", "rank": 17}, r"rank: .*up_proj has 16 singular components; found 17"),
    ],
)
def test_what_the_model_does_not_have_is_refused_and_nothing_is_changed(make_model, settings, complaint):
    model = make_model("llama")
    with pytest.raises(ConfigError, match=complaint):
        inject(model, LoRAConfig(**settings))
    assert all(p.requires_grad for p in model.parameters())
    assert not list(adapters(model))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_biases_are_trained_where_asked_for(family, make_model):
    trained, head = {}, {}
    for bias in ("none", "lora_only", "all"):
        model = make_model(family)
        targets = inject(model, LoRAConfig(bias=bias))
        head = tuple(head_modules(model))
        trained[bias] = {n for n in trained_names(model) if n.endswith(".bias") and not n.startswith(head)}
    everything = {n for n, _ in model.named_parameters() if n.endswith(".bias") and not n.startswith(head)}
    assert trained == {
        "none": set(),
        "lora_only": everything & {f"{name}.base.bias" for name in targets},
        "all": everything,
    }
    assert bool(everything) == (family != "llama")


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
