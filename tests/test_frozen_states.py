from types import SimpleNamespace

import numpy as np
import pytest
import torch

from potstill import artifacts
from potstill import frozen_states as module
from potstill.config import LoRAConfig, RuntimeConfig, TeacherConfig
from potstill.data import Corpus, Examples
from potstill.files import cache_directory
from potstill.teacher import Teacher
from potstill.training.inference import predict_logits

CPU = RuntimeConfig(device="cpu", precision="32-true")
EXAMPLES = Examples(("w1 w2 w3", "w4", "w5 w6 w7 w8 w9", ""), np.array([0, 1, 0, 1]))
CORPUS = Corpus("tiny", "made up", ("bad", "good"), EXAMPLES, EXAMPLES, EXAMPLES)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))


@pytest.fixture
def teacher(tiny_backbone):
    return make(tiny_backbone)


def make(backbone, seed=0, runtime=CPU, **lora):
    config = TeacherConfig(backbone=str(backbone), lora=LoRAConfig(rank=2, **({"last_blocks": 1} | lora)))
    return Teacher.create(config, runtime, CORPUS, 16, seed)


def files():
    return sorted((cache_directory() / "states").glob("*/array.npy"))


def test_states_are_computed_once_and_shared_by_seeds(teacher, tiny_backbone, monkeypatch):
    first = teacher.tuning_set(EXAMPLES)
    assert first.states.shape == (len(first.tokens.ids), teacher.classifier.model.config.hidden_size)
    monkeypatch.setattr(module, "_compute", None)  # calling it would fail
    again = make(tiny_backbone, seed=1).tuning_set(EXAMPLES)
    assert np.array_equal(again.states, first.states)
    assert isinstance(again.states, np.memmap)  # a data set larger than memory would do
    assert len(files()) == 1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_recalled_and_computed_logits_agree(tiny_backbone, precision):
    teacher = make(tiny_backbone, runtime=RuntimeConfig(device="cpu", precision=precision))
    known = teacher.tuning_set(EXAMPLES)
    assert known.states is not None
    recalled = predict_logits(teacher.classifier, known, teacher.fabric)
    torch.testing.assert_close(recalled, teacher.logits(EXAMPLES), rtol=1e-5, atol=1e-6)


def test_other_texts_other_depths_and_other_weights_have_states_of_their_own(teacher, model_directory, tiny_backbone):
    teacher.tuning_set(EXAMPLES)
    teacher.tuning_set(EXAMPLES.take([0, 1]))
    make(model_directory("gpt2")).tuning_set(EXAMPLES)
    head = TeacherConfig(backbone=str(tiny_backbone), method="head")
    Teacher.create(head, CPU, CORPUS, 16, 0).tuning_set(EXAMPLES)
    assert len(files()) == 4


def test_nothing_is_stored_where_all_blocks_are_trained(tiny_backbone):
    assert make(tiny_backbone, last_blocks=None).tuning_set(EXAMPLES).states is None
    assert not files()


def test_nothing_is_stored_where_the_disk_is_too_small(teacher, monkeypatch):
    size = 4 * len(teacher.training_set(EXAMPLES).tokens.ids) * teacher.classifier.model.config.hidden_size
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * size - 1))
    assert teacher.tuning_set(EXAMPLES).states is None
    assert not files()
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * size))
    assert teacher.tuning_set(EXAMPLES).states is not None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda _: b""]
)
def test_damaged_states_are_computed_again(teacher, damage):
    intact = np.array(teacher.tuning_set(EXAMPLES).states)
    (file,) = files()
    file.write_bytes(damage(file.read_bytes()))
    assert np.array_equal(teacher.tuning_set(EXAMPLES).states, intact)


def test_an_interruption_leaves_no_states_behind(teacher, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        teacher.tuning_set(EXAMPLES)
    assert {path.suffix for path in (cache_directory() / "states").iterdir()} == {".lock"}
