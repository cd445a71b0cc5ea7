import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from potstill.backbone import TextClassifier
from potstill.config import LoRAConfig
from potstill.errors import ArtifactError
from potstill.lora import ADAPTER_FILES, adapters, inject, load_adapter, save_adapter
from potstill.lora.state import CONFIG_FILE, WEIGHTS_FILE

HEAD = "base_model.model.score.weight"
LORA_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def tune(model, config):
    """Inject and move everything trainable away from its start."""
    inject(model, config)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.1)
    return model


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


def drop_adapter(tensors):
    del tensors[LORA_A]


def add_tensor(tensors):
    tensors["base_model.model.stray"] = torch.zeros(1)


def change_shape(tensors):
    tensors[HEAD] = torch.zeros(5, 16)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (drop_head, f"1 tensors are missing: {HEAD}"),
        (drop_adapter, f"1 tensors are missing: {LORA_A}"),
        (add_tensor, "1 tensors are not of this model: base_model.model.stray"),
        (change_shape, rf"1 tensors have the wrong shape: {HEAD} \(expected \(3, 16\), found \(5, 16\)\)"),
    ],
)
def test_every_difference_from_the_model_is_refused(saved, make_model, damage, complaint):
    tensors = load_file(saved / WEIGHTS_FILE)
    damage(tensors)
    save_file(tensors, saved / WEIGHTS_FILE)
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
    with pytest.raises(ArtifactError, match=r"does not fit this backbone: .*q_proj.* matches none .*c_attn"):
        load_adapter(make_model("gpt2"), saved)


@pytest.mark.parametrize(
    "change",
    [{"peft_type": "IA3"}, {"bias": "all"}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}}, {"r": "x"}],
)
def test_other_kinds_of_adapters_are_refused(saved, make_model, change):
    path = saved / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=f"{CONFIG_FILE}.*{next(iter(change))}"):
        load_adapter(make_model("llama"), saved)


@pytest.mark.parametrize("train_layernorm", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "modernbert"])
def test_peft_reads_what_potstill_writes(family, make_model, model_directory, batch, tmp_path, train_layernorm):
    base = model_directory(family)
    config = LoRAConfig(rank=2, train_layernorm=train_layernorm)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    save_adapter(tune(model, config).eval(), config, tmp_path, base=str(base))

    fresh = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)  # with another random head
    theirs = PeftModel.from_pretrained(fresh, tmp_path).eval()
    with torch.no_grad():
        found = theirs(input_ids=batch[0], attention_mask=batch[1]).logits
    torch.testing.assert_close(found, logits(model, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_potstill_reads_what_peft_writes(family, make_model, batch, tmp_path):
    targets = ["c_attn", "c_fc"] if family == "gpt2" else ["q_proj", "v_proj"]
    settings = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=targets, fan_in_fan_out=family == "gpt2")
    theirs = get_peft_model(make_model(family), settings).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.1)
        expected = theirs(input_ids=batch[0], attention_mask=batch[1]).logits
    theirs.save_pretrained(tmp_path)

    ours = make_model(family)
    load_adapter(ours, tmp_path)
    assert len(list(adapters(ours))) == 4
    torch.testing.assert_close(logits(ours.eval(), batch), expected, atol=1e-5, rtol=0)
