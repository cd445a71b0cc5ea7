"""An adapted backbone: what it computes against the tuned adapters, who reads it, and what it has read."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from commandline import potstill
from potstill.backbone import load_config, load_language_model
from potstill.config import PotstillConfig
from potstill.data import Corpus, Examples
from potstill.transfer import language_model
from potstill.transfer.adaptation import BACKBONE, adapt, is_adapted
from potstill.transfer.language_model import LanguageModel, NextTokenLoss
from potstill.transfer.sets import TransferSet


def examples(*texts):
    return Examples(tuple(texts), np.arange(len(texts)) % 2)


CORPUS = Corpus(
    "tiny",
    "here",
    ("bad", "good"),
    examples(*["w10 w11 w12 w13", "w20 w21 w22 w23"] * 30),
    examples("w10 w11 w12 w13", "w20 w21 w22 w23"),
    examples("w30 w31 w32 w33 w34 w35"),
)


def settings(backbone, precision="32-true", **transfer):
    training = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 8}
    return PotstillConfig.build(
        {
            "teacher": {"backbone": str(backbone)},
            "transfer": {"training": training} | transfer,
            "runtime": {"device": "cpu", "precision": precision},
        }
    )


@pytest.fixture
def backbone(model_directory):
    """A decoder whose output layer shares its embeddings: a checkpoint without a head is complete."""
    return model_directory("gpt2")


def surprise(model, config):
    """How a language model finds the selection texts, in nats per token."""
    writer = LanguageModel.load(config)
    batch = writer._training_set(CORPUS.selection, None).batch([0, 1])
    with torch.inference_mode():
        total, count = NextTokenLoss(model)(batch.input_ids, batch.attention_mask).sum(dim=0)
    return float(total / count)


@pytest.mark.parametrize("lora", [{}, {"init": "pissa", "rank": 4}, {"dora": True, "bias": "all"}])
def test_what_is_written_is_the_tuned_model(backbone, tmp_path, lora):
    config = settings(backbone, lora=lora)
    adapt(config, CORPUS, tmp_path)
    assert is_adapted(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / BACKBONE).eval()
    assert not any("lora" in name for name, _ in plain.named_parameters())
    assert surprise(plain, config) == pytest.approx(min(r["selection_loss"] for r in records), rel=1e-4)
    before = load_language_model(str(backbone), load_config(str(backbone))).eval()
    assert surprise(before, config) > surprise(plain, config) + 1.0
    places = (tmp_path / BACKBONE, backbone)
    ids, expected = (AutoTokenizer.from_pretrained(place)("w10 w11")["input_ids"] for place in places)
    assert ids == expected


def test_a_base_rounded_for_tuning_is_written_unrounded(backbone, tmp_path):
    """But for the adapters' updates: no weight that has none may have moved."""
    adapt(settings(backbone, "bf16-mixed", lora={"targets": ["*.c_attn"]}), CORPUS, tmp_path)
    before = AutoModelForCausalLM.from_pretrained(backbone).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / BACKBONE).state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed
    assert all("c_attn" in name for name in changed)


def test_labels_are_not_looked_at(backbone, tmp_path):
    other = Examples(CORPUS.train.texts, 1 - CORPUS.train.labels)
    adapt(settings(backbone), CORPUS, tmp_path / "one")
    adapt(settings(backbone), Corpus("t", "h", ("x", "y"), other, CORPUS.selection, CORPUS.evaluation), tmp_path / "b")
    first, second = ((tmp_path / name / BACKBONE / "model.safetensors").read_bytes() for name in ("one", "b"))
    assert first == second


def test_files_are_read_but_for_what_is_held_out(backbone, tmp_path, monkeypatch):
    more = tmp_path / "more.txt"
    more.write_text("w40 w41 w42 w43\nw30 w31 w32 w33 w34 w35\n", encoding="utf-8")
    read = []
    tune = LanguageModel.tune

    def record(self, config, corpus, *arguments, **named):
        read.extend(corpus.train.texts)
        tune(self, config, corpus, *arguments, **named)

    monkeypatch.setattr(LanguageModel, "tune", record)
    adapt(settings(backbone, files=[str(more)], sampled=1000, perturbed=1000), CORPUS, tmp_path / "out")
    assert read == [*CORPUS.train.texts, "w40 w41 w42 w43"]
    assert TransferSet.load(tmp_path / "out" / "transfer").texts == ("w40 w41 w42 w43",)


def test_pairs_are_read_one_above_the_other(backbone, tmp_path, monkeypatch):
    def pairs(*texts):
        return Examples(tuple(texts), np.zeros(len(texts), np.int64), tuple("w50 w51" for _ in texts))

    seen = []
    monkeypatch.setattr(language_model, "fit", lambda _, train, *__, **___: seen.append(train))
    adapt(settings(backbone), Corpus("t", "h", ("a", "b"), *[pairs("w10 w11")] * 3), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    assert seen[0].tokens[0].tolist()[1:-1] == tokenizer("w10 w11\nw50 w51", add_special_tokens=False)["input_ids"]


def test_the_command_goes_on_and_teachers_are_tuned_from_what_it_wrote(backbone, tmp_path, monkeypatch, capsys):
    more = tmp_path / "more.txt"
    more.write_text("Nobody has read this before.\n", encoding="utf-8")
    arguments = ["--data", "embedded", "--limit", "60", "--epochs", "1", "--backbone"]
    out, written = tmp_path / "adapted", tmp_path / "adapted" / BACKBONE
    command = ["adapt", *arguments, backbone, "--transfer-files", more, "--out", out]
    with monkeypatch.context() as broken:
        broken.setattr(LanguageModel, "merge", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            potstill(*command)
    assert not is_adapted(out)
    assert potstill(*command) == 0
    assert "language model  was trained to its end before" in capsys.readouterr().err
    assert is_adapted(out)
    first = (written / "model.safetensors").stat().st_mtime_ns
    assert potstill(*command) == 0
    assert (written / "model.safetensors").stat().st_mtime_ns == first  # there was nothing to do
    assert capsys.readouterr().out.splitlines() == [str(written)]
    assert potstill("doctor", out) == 0
    assert potstill("finetune", *arguments, written, "--out", tmp_path / "teacher") == 0
    manifest = json.loads((tmp_path / "teacher" / "teacher.json").read_text())
    assert manifest["backbone"] == str(written)


def test_an_encoder_is_refused_before_anything_is_written(model_directory, tmp_path, capsys):
    out = tmp_path / "adapted"
    assert potstill("adapt", "--data", "embedded", "--backbone", model_directory("bert"), "--out", out) == 1
    assert "expected a decoder" in capsys.readouterr().err
    assert not out.exists()
