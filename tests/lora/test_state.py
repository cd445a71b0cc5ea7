import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from moved import moved
from potstill.config import LoRAConfig
from potstill.errors import ArtifactError
from potstill.lora import ADAPTER_FILES, inject, load_adapter, save_adapter
from potstill.predict.directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from potstill.teacher.backbone.classifier import TextClassifier

HEAD = "base_model.model.score.weight"
LORA_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def tune(model, config):
    """Adapt a model as if it had been trained a little."""
    inject(model, config)
    return moved(model)


@torch.no_grad()
def logits(model, batch):
    return TextClassifier(model, 1)(*batch)


@pytest.mark.parametrize("train_layernorm", [False, True])
def test_what_was_saved_is_loaded(family, make_model, batch, tmp_path, train_layernorm):
    config = LoRAConfig(rank=2, alpha=3.0, dropout=0.1, train_layernorm=train_layernorm)
    model = tune(make_model(family), config).eval()
    save_adapter(model, config, tmp_path, base="tiny")
    assert {file.name for file in tmp_path.iterdir()} == set(ADAPTER_FILES)

    other = make_model(family)
    loaded = load_adapter(other, tmp_path)
    assert (loaded.rank, loaded.alpha, loaded.dropout, loaded.train_layernorm) == (2, 3.0, 0.1, train_layernorm)
    assert torch.equal(logits(other.eval(), batch), logits(model, batch))
    assert {n for n, p in other.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.fixture
def saved(make_model, tmp_path):
    config = LoRAConfig(rank=2)
    save_adapter(tune(make_model("llama"), config), config, tmp_path, base="tiny")
    return tmp_path


def drop_head(tensors):
    del tensors[HEAD]


def drop_matrix(tensors):
    del tensors[LORA_A]


def drop_adapter(tensors):
    del tensors[LORA_A], tensors[LORA_A.replace("lora_A", "lora_B")]


def add_tensor(tensors):
    tensors["base_model.model.stray"] = torch.zeros(1)


def flatten_matrix(tensors):
    tensors[LORA_A] = torch.tensor(0.0)


def change_shape(tensors):
    tensors[HEAD] = torch.zeros(5, 16)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (drop_head, f"1 tensors are missing: {HEAD}"),
        (drop_matrix, f"1 tensors are missing: {LORA_A}"),
        (drop_adapter, r"found none of .'model\.layers\.0\.self_attn\.q_proj'"),
        (add_tensor, "1 tensors are not of this model: base_model.model.stray"),
        (flatten_matrix, r"expected adapters of rank 2, found tensors of the shapes \[\(\)\]"),
        (change_shape, rf"1 tensors have the wrong shape: {HEAD} \(expected \(3, 16\), found \(5, 16\)\)"),
    ],
)
def test_every_difference_from_the_model_is_refused(saved, make_model, damage, complaint):
    tensors = load_file(saved / ADAPTER_WEIGHTS)
    damage(tensors)
    save_file(tensors, saved / ADAPTER_WEIGHTS)
    with pytest.raises(ArtifactError, match=complaint):
        load_adapter(make_model("llama"), saved)


@pytest.mark.parametrize("file", ADAPTER_FILES)
def test_damaged_and_missing_files_are_refused(saved, make_model, file):
    path = saved / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=file):
        load_adapter(make_model("llama"), saved)
    path.unlink()
    with pytest.raises(ArtifactError, match=file):
        load_adapter(make_model("llama"), saved)


def test_another_family_is_refused(saved, make_model):
    with pytest.raises(ArtifactError, match=r"does not fit this backbone.*q_proj' matches none"):
        load_adapter(make_model("gpt2"), saved)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"peft_type": "IA3"}, "found {'peft_type': 'IA3'}"),
        ({"peft_type": None}, "found {'peft_type': None}"),
        ({"init_lora_weights": "pissa"}, "found {'init_lora_weights': 'pissa'}"),
        ({"init_lora_weights": "pissa_niter_4"}, "found {'init_lora_weights': 'pissa_niter_4'}"),
        ({"rank_pattern": {"q_proj": 3}}, "one rank and alpha for all modules, found {'rank_pattern': .'q_proj': 3}}"),
        ({"alpha_pattern": {"q_proj": 3}}, "found {'alpha_pattern': .'q_proj': 3}}"),
        ({"target_parameters": ["weight"]}, "found {'target_parameters': ..weight"),
        ({"r": "x"}, "rank\n.*valid integer"),
        ({"r": 3}, "expected adapters of rank 3, found tensors of the shapes ..2, 16."),
        ({"r": 10**9}, "expected adapters of rank 1000000000, found tensors"),
        ({"lora_alpha": None}, "alpha\n.*valid number"),
        ({"bias": "all"}, "found {'bias': 'all'}"),
        ({"use_dora": True}, "found {'use_dora': True}"),
        ({"target_modules": ["model.norm"]}, r"all `target_modules`, found none of ..model\.norm"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit_are_refused(saved, make_model, change, complaint):
    path = saved / ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=f"(?s){complaint}"):
        load_adapter(make_model("llama"), saved)


def test_a_missing_setting_is_named(saved, make_model):
    path = saved / ADAPTER_CONFIG
    values = json.loads(path.read_text())
    del values["lora_alpha"]
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=f"{ADAPTER_CONFIG} can't be read: 'lora_alpha' is missing"):
        load_adapter(make_model("llama"), saved)
