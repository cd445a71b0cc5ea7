import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from potstill.config import LoRAConfig, RuntimeConfig, TeacherConfig
from potstill.data import Corpus, Examples
from potstill.errors import ArtifactError, SourceError
from potstill.lora import adapters
from potstill.lora.state import CONFIG_FILE
from potstill.runtime.directory import TEACHER_MANIFEST as MANIFEST
from potstill.teacher import Teacher, teacher_bytes

CPU = RuntimeConfig(device="cpu", precision="32-true")
EXAMPLES = Examples(("w1 w2 w3", "w4", "", "w5 w6 w7 w8 w9"), np.array([0, 1, 0, 1]))
CORPUS = Corpus("tiny", "made up", ("bad", "good"), EXAMPLES, EXAMPLES, EXAMPLES)


def make(name, *, seed=0, max_tokens=16, **options):
    config = TeacherConfig(backbone=str(name), lora=LoRAConfig(rank=2), **options)
    teacher = Teacher.create(config, CPU, CORPUS, max_tokens, seed)
    with torch.no_grad():  # as if trained
        for p in teacher.classifier.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.1)
    return teacher


@pytest.mark.parametrize("random_init", [False, True])
def test_a_saved_teacher_judges_as_before(family, model_directory, tmp_path, random_init):
    teacher = make(model_directory(family), random_init=random_init, seed=3)
    logits = teacher.logits(EXAMPLES)
    assert logits.shape == (4, 2)
    assert logits.dtype == torch.float32
    teacher.save(tmp_path)

    torch.manual_seed(99)
    loaded = Teacher.load(tmp_path, CPU)
    assert loaded.key() == teacher.key()  # before the first text and after
    assert torch.equal(loaded.logits(EXAMPLES), logits)
    assert loaded.manifest == teacher.manifest
    assert loaded.parameters == teacher.parameters


@pytest.fixture
def base(model_directory, tmp_path):
    return shutil.copytree(model_directory("gpt2"), tmp_path / "base")


@pytest.fixture
def saved(base, tmp_path):
    make(base).save(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_another_base_is_refused(base, saved):
    tensors = load_file(base / "model.safetensors")
    tensors["h.0.mlp.c_fc.weight"][0, 0] += 1e-3
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"is not the one .*\(expected weights \w+, found \w+\)"):
        Teacher.load(saved, CPU)


def test_a_base_that_is_gone_is_refused(base, saved):
    shutil.rmtree(base)
    with pytest.raises(SourceError, match="no such file or directory"):
        Teacher.load(saved, CPU)


def test_an_incomplete_or_foreign_manifest_is_refused(saved):
    manifest = json.loads((saved / MANIFEST).read_text())
    for damaged in (manifest | {"format": 99}, manifest | {"surplus": 1}, {"format": manifest["format"]}):
        (saved / MANIFEST).write_text(json.dumps(damaged))
        with pytest.raises(ArtifactError, match=MANIFEST):
            Teacher.load(saved, CPU)
    (saved / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=MANIFEST):
        Teacher.load(saved, CPU)


def test_the_key_follows_everything_that_is_trained(saved):
    teacher = Teacher.load(saved, CPU)
    keys = {teacher.key()}
    trained = [parameter for parameter in teacher.classifier.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data.view(-1)[0] += 1.0
        keys.add(teacher.key())
    assert len(keys) == 1 + len(trained)


def test_the_key_follows_scale_and_length(base):
    keys = {make(base, max_tokens=5).key(), make(base, max_tokens=6).key()}
    rescaled = make(base, max_tokens=6)
    for _, adapter in adapters(rescaled.classifier):
        adapter.scaling *= 2
    assert len(keys | {rescaled.key()}) == 3


def test_texts_are_cut_to_the_backbones_positions(model_directory):
    teacher = make(model_directory("roberta"), max_tokens=128)
    assert teacher.manifest.max_tokens == 38
    long = Examples(("w1 " * 200,), np.array([0]))
    assert torch.isfinite(teacher.logits(long)).all()


def test_the_padding_token_falls_back_to_the_end_of_text(base):
    path = base / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps(config))
    assert make(base).classifier.padding_id == 2


def test_the_size_on_disk_counts_the_base(saved):
    teacher = Teacher.load(saved, CPU)
    total, trained = teacher.parameters
    assert 0 < trained < total
    size = teacher_bytes(saved, total)
    assert size == 4 * total + (saved / MANIFEST).stat().st_size + (saved / CONFIG_FILE).stat().st_size


def test_a_decoders_texts_begin_with_its_beginning_of_text_token(tmp_path, model_directory):
    """Where the tokenizer has the token and does not add it; never twice, and never for an encoder."""
    directory = shutil.copytree(model_directory("llama"), tmp_path / "plain")
    content = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))

    def first_ids(name, **options):
        return make(name, **options).training_set(EXAMPLES).tokens[0][:2].tolist()

    plain = first_ids(directory, add_bos=False)
    assert first_ids(directory) == [0, plain[0]]
    assert first_ids(model_directory("llama"))[0] == 0
    assert first_ids(model_directory("llama"))[1] == plain[0]

    pairs = Examples(("w1",), np.array([0]), ("w2",))
    first, second = make(directory, add_bos=False).training_set(pairs).tokens[0].tolist()
    assert make(directory).training_set(pairs).tokens[0].tolist() == [0, first, 0, second]

    encoder = shutil.copytree(model_directory("bert"), tmp_path / "encoder")
    shutil.copy(directory / "tokenizer.json", encoder / "tokenizer.json")
    assert first_ids(encoder) == plain
