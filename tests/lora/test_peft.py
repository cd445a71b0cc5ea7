"""PEFT as the oracle: the same adapters compute, learn and are stored the same way."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from moved import moved
from potstill.config import LoRAConfig, TrainingConfig
from potstill.errors import ArtifactError
from potstill.lora import absorb_adapters, adapters, inject, load_adapter, save_adapter
from potstill.lora.dropout import Dropout
from potstill.predict.directory import ADAPTER_CONFIG
from potstill.teacher.backbone.classifier import TextClassifier
from potstill.training.schedule import make_optimizer

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LABELS = torch.tensor([0, 1, 2])
ATTENTION = {"gpt2": ("*.c_attn", "c_attn"), "llama": ("*.q_proj", "q_proj"), "bert": ("*.query", "query")}
"""A linear map that every block has, as our pattern and in PEFT's words."""
VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True, "alpha": 3.0},
    "norms": {"train_layernorm": True},
    "last block": {"target_modules": ("*.1.*",)},
}


def jitter(model):
    """Return a model as if it had been trained a little; two of the same shape move alike."""
    return moved(model, seed=2).eval()


@torch.no_grad()
def our_logits(model, batch):
    return TextClassifier(model, 1)(*batch)


@torch.no_grad()
def peft_logits(model, batch):
    return model(input_ids=batch[0], attention_mask=batch[1]).logits


def peft_trains(model):
    """PEFT's trained parameters by their names on disk."""
    names = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            names[name.replace(".modules_to_save", "").replace(".default", "")] = p
    return names


def ours_trains(model):
    names = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            matrix = name.endswith(("lora_A", "lora_B"))
            names[f"base_model.model.{name}" + ".weight" * matrix] = p
    return names


def assert_equal(ours, theirs):
    """Compare tensors by name, relative to the largest entry of each."""
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        scale = max(1e-6, theirs[name].abs().max().item())
        assert (found - theirs[name]).abs().max().item() <= 1e-5 * scale, name


@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}], ids=["lora", "rslora"])
def test_logits_gradients_and_steps_are_pefts(family, make_model, batch, tmp_path, variant):
    config = LoRAConfig(rank=2, alpha=3.0, **variant)
    ours = make_model(family)
    inject(ours, config)
    save_adapter(jitter(ours), config, tmp_path, base="tiny")
    theirs = PeftModel.from_pretrained(make_model(family), tmp_path, is_trainable=True).eval()  # eval: no dropout
    torch.testing.assert_close(our_logits(ours, batch), peft_logits(theirs, batch), **CLOSE)

    settings = TrainingConfig(learning_rate=1e-3, weight_decay=0.1)
    optimizer = make_optimizer(ours, settings)
    vectors = [p for p in theirs.parameters() if p.requires_grad and p.dim() < 2]
    matrices = [p for p in theirs.parameters() if p.requires_grad and p.dim() >= 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    oracle = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)
    for step in range(5):
        nn.functional.cross_entropy(TextClassifier(ours, 1)(*batch), LABELS).backward()
        nn.functional.cross_entropy(theirs(input_ids=batch[0], attention_mask=batch[1]).logits, LABELS).backward()
        if step == 0:
            assert_equal(*({n: p.grad for n, p in named.items()} for named in (ours_trains(ours), peft_trains(theirs))))
        for each in (optimizer, oracle):
            each.step()
            each.zero_grad()
    assert_equal(ours_trains(ours), peft_trains(theirs))


def test_dropout_acts_in_the_same_place_as_in_peft(make_model, batch, tmp_path):
    config = LoRAConfig(rank=2, dropout=0.3)
    ours = make_model("llama")
    inject(ours, config)
    save_adapter(jitter(ours), config, tmp_path, base="tiny")
    theirs = PeftModel.from_pretrained(make_model("llama"), tmp_path, is_trainable=True)
    for module in theirs.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout["default"] = Dropout(0.3)  # which draws otherwise than PyTorch's
    found = []
    for call in (lambda: TextClassifier(ours.train(), 1)(*batch), lambda: theirs.train()(*batch).logits):
        torch.manual_seed(5)
        found.append(call())
        nn.functional.cross_entropy(found[-1], LABELS).backward()
    torch.testing.assert_close(*found, **CLOSE)
    assert_equal(*({n: p.grad for n, p in named.items()} for named in (ours_trains(ours), peft_trains(theirs))))


@pytest.mark.parametrize("family", ATTENTION)
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_ours_to_peft_and_back(family, make_model, batch, tmp_path, variant):
    config = LoRAConfig(**{"rank": 2, "target_modules": ("*",)} | variant)
    ours = make_model(family)
    targets = inject(ours, config)
    expected = our_logits(jitter(ours), batch)
    save_adapter(ours, config, tmp_path / "ours", base="tiny")
    settings = json.loads((tmp_path / "ours" / ADAPTER_CONFIG).read_text())
    assert settings["fan_in_fan_out"] is (family == "gpt2")  # whose weights lie the other way round

    theirs = PeftModel.from_pretrained(make_model(family, seed=0), tmp_path / "ours").eval()
    torch.testing.assert_close(peft_logits(theirs, batch), expected, **CLOSE)

    theirs.save_pretrained(tmp_path / "theirs")
    for directory in ("ours", "theirs"):
        again = make_model(family)
        loaded = load_adapter(again, tmp_path / directory)
        assert {name for name, _ in adapters(again)} == set(loaded.target_modules) == set(targets)
        torch.testing.assert_close(our_logits(again.eval(), batch), expected, **CLOSE)
        absorb_adapters(again)
        torch.testing.assert_close(our_logits(again, batch), expected, **CLOSE)

    torch.testing.assert_close(peft_logits(theirs.merge_and_unload(), batch), expected, **CLOSE)


PEFT_SETTINGS = {
    "suffixes": {"target_modules": ["query", "value"]},
    "expression": {"target_modules": r".*layer\.[01]\.attention.*\.(query|key)"},
    "all linear": {"target_modules": "all-linear"},
    "all linear but": {"target_modules": "all-linear", "exclude_modules": ["pooler.dense", "intermediate.dense"]},
    "layers": {"target_modules": ["query"], "layers_to_transform": [1]},
    "a full name in another layer": {
        "target_modules": ["query", "bert.encoder.layer.0.attention.self.key"],
        "layers_to_transform": [1],
    },
    "rslora": {"target_modules": ["query"], "use_rslora": True},
    "gaussian": {"target_modules": ["query"], "init_lora_weights": "gaussian"},
    "pooler": {"target_modules": ["query"], "modules_to_save": ["pooler"]},
}


@pytest.mark.parametrize("settings", PEFT_SETTINGS.values(), ids=PEFT_SETTINGS)
def test_pefts_adapters_load(make_model, batch, tmp_path, settings):
    theirs = get_peft_model(make_model("bert"), LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=3, **settings))
    expected = peft_logits(jitter(theirs), batch)
    theirs.save_pretrained(tmp_path / "theirs")

    ours = make_model("bert")
    config = load_adapter(ours, tmp_path / "theirs")
    assert {name for name, _ in adapters(ours)} == set(theirs.base_model.targeted_module_names)
    torch.testing.assert_close(our_logits(ours.eval(), batch), expected, **CLOSE)
    assert ours_trains(ours).keys() == peft_trains(theirs).keys()

    save_adapter(ours, config, tmp_path / "ours", base="tiny")
    theirs = PeftModel.from_pretrained(make_model("bert"), tmp_path / "ours").eval()
    torch.testing.assert_close(peft_logits(theirs, batch), expected, **CLOSE)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "opt", "gpt_neox", "bert", "roberta"])
def test_pefts_default_targets_load(family, make_model, batch, tmp_path):
    theirs = get_peft_model(make_model(family), LoraConfig(task_type="SEQ_CLS", r=2))
    expected = peft_logits(jitter(theirs), batch)
    theirs.save_pretrained(tmp_path)
    ours = make_model(family)
    load_adapter(ours, tmp_path)
    torch.testing.assert_close(our_logits(ours.eval(), batch), expected, **CLOSE)


@pytest.mark.parametrize(
    ("family", "settings", "complaint"),
    [
        ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "found {'init_lora_weights': 'olora'}"),
        ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, "found {'init_lora_weights': 'pissa'}"),
        ("bert", {"target_modules": ["query"], "rank_pattern": {"layer.0": 3}}, "found {'rank_pattern': "),
        ("bert", {"target_modules": ["query"], "alpha_pattern": {"layer.0": 3}}, "found {'alpha_pattern': "),
        ("bert", {"target_modules": ["query"], "lora_bias": True}, "found {'lora_bias': True}"),
        ("bert", {"target_modules": ["query"], "bias": "lora_only"}, "found {'bias': 'lora_only'}"),
        ("llama", {"target_modules": ["embed_tokens"]}, "'model.embed_tokens' matches none of the model's linear maps"),
        (
            "llama",
            {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},
            "found {'trainable_token_indices': ",
        ),
        ("modernbert", {"target_modules": "all-linear"}, "'head.dense' matches none"),
        ("modernbert", {"target_modules": ["Wo"]}, r"2 tensors are missing: base_model\.model\.head"),
    ],
)
def test_adapters_that_would_be_read_wrongly_are_refused(family, make_model, tmp_path, settings, complaint):
    get_peft_model(make_model(family), LoraConfig(task_type="SEQ_CLS", r=2, **settings)).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=complaint):
        load_adapter(make_model(family), tmp_path)


def test_unknown_settings_are_refused(make_model, tmp_path):
    get_peft_model(make_model("llama"), LoraConfig(task_type="SEQ_CLS", r=2)).save_pretrained(tmp_path)
    path = tmp_path / ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_something_new": True}))
    with pytest.raises(ArtifactError, match=r"expected LoRA.*, found {'use_something_new': True}"):
        load_adapter(make_model("llama"), tmp_path)
