"""The plain model is what `transformers` makes of the files alone; its logits must be the teacher's."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from moved import moved
from potstill.config import LoRAConfig, RuntimeConfig, TransformerConfig
from potstill.data import Corpus, Examples
from potstill.errors import ArtifactError
from potstill.export.merged import write_merged
from potstill.lora import adapters
from potstill.teacher.transformer import TransformerTeacher

CPU = RuntimeConfig(device="cpu", precision="32-true")
LABELS = np.array([0, 1, 0, 1])
SINGLE = Examples(("w1 w2 w3", "w4", "w9 w5", "w5 w6 w7 w8 w9 w1 w2 w3 w4 w5 w6 w7 w8 w9 w1 w2 w3"), LABELS)
PAIRS = Examples(SINGLE.texts, LABELS, ("w9", "w8 w7", "w6", "w5 w4 w3"))


def tuned(backbone, examples=SINGLE, **options):
    """Make a teacher whose every trained weight has moved."""
    corpus = Corpus("tiny", "made up", ("bad", "good"), examples, examples, examples)
    teacher = TransformerTeacher.create(TransformerConfig(backbone=str(backbone), **options), CPU, corpus, 16, seed=0)
    moved(teacher.classifier)
    return teacher


def merged(teacher, tmp_path):
    teacher.save(tmp_path / "teacher")
    write_merged(tmp_path / "teacher", tmp_path / "plain")
    return tmp_path / "plain"


@torch.no_grad()
def plain_logits(directory, examples):
    """Classify with transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    pairs = None if examples.pairs is None else list(examples.pairs)
    batch = tokenizer(list(examples.texts), pairs, padding=True, truncation=True, return_tensors="pt")
    return model(**batch).logits


def assert_same(teacher, directory, examples=SINGLE):
    expected = teacher.logits(examples)
    assert expected.std() > 1e-2
    np.testing.assert_allclose(plain_logits(directory, examples), expected, atol=1e-5, rtol=1e-5)


def test_files_are_readable_for_all_and_nothing_is_printed(model_directory, tmp_path, capfd):
    directory = merged(tuned(model_directory("gpt2")), tmp_path)
    assert {file.name for file in directory.iterdir() if file.stat().st_mode & 0o044 != 0o044} == set()
    assert capfd.readouterr().err == ""


def test_a_teacher_with_echo_is_refused(model_directory, tmp_path):
    with pytest.raises(ArtifactError, match="found one with echo"):
        merged(tuned(model_directory("gpt2"), echo=True), tmp_path)
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "bert"])
def test_dropped_layers_are_not_in_the_plain_model(family, model_directory, tmp_path):
    teacher = tuned(model_directory(family), num_layers=1)
    assert_same(teacher, merged(teacher, tmp_path))


@pytest.mark.parametrize("method", ["lora", "full", "head"])
def test_transformers_computes_the_same_logits(family, method, model_directory, tmp_path):
    teacher = tuned(model_directory(family), method=method, lora=LoRAConfig(rank=2))
    assert_same(teacher, merged(teacher, tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"train_layernorm": True},
        {"target_modules": ("*.1.*",)},
    ],
    ids=str,
)
def test_every_variant_of_lora_is_merged(options, model_directory, tmp_path):
    teacher = tuned(model_directory("gpt2"), lora=LoRAConfig(rank=2, **options))
    assert_same(teacher, merged(teacher, tmp_path))


@pytest.mark.parametrize("family", ["llama", "bert", "roberta"])
def test_pairs(family, model_directory, tmp_path):
    teacher = tuned(model_directory(family), PAIRS)
    assert_same(teacher, merged(teacher, tmp_path), PAIRS)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_padding_never_hides_the_last_token(family, ends, model_directory, tmp_path):
    """A tokenizer without a padding token: the end-of-text token pads, and may end every text too."""
    base = shutil.copytree(model_directory(family), tmp_path / "base")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    if not ends:
        content = json.loads((base / "tokenizer.json").read_text())
        (base / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    teacher = tuned(base)
    assert teacher.classifier.pad_token_id == 2
    directory = merged(teacher, tmp_path)
    assert (AutoTokenizer.from_pretrained(directory).pad_token_id == 2) is not ends
    assert_same(teacher, directory)


def test_the_files_hold_class_names_and_length(tiny_backbone, tmp_path):
    directory = merged(tuned(tiny_backbone), tmp_path)
    config = json.loads((directory / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good"}
    assert config["label2id"] == {"bad": 0, "good": 1}
    assert config["dtype"] == "float32"
    assert AutoTokenizer.from_pretrained(directory).model_max_length == 16
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    assert next(adapters(model), None) is None


def test_nothing_is_overwritten(tiny_backbone, tmp_path):
    tuned(tiny_backbone).save(tmp_path / "teacher")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="not empty"):
        write_merged(tmp_path / "teacher", tmp_path / "plain")
    assert [file.name for file in (tmp_path / "plain").iterdir()] == ["mine.txt"]
