"""The teacher's hidden states: the right ones, at the right tokens, and a student that learns them."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

import potstill
from potstill import pipeline
from potstill.config import PotstillConfig
from potstill.data.tokenised import tokenise
from potstill.distillation import hidden
from potstill.distillation.hidden import Matching, MatchingObjective, teacher_states, with_hidden_states
from potstill.distillation.loss import Objective
from potstill.distillation.teacher_logits import teacher_logits
from potstill.distillation.words import WordEnds
from potstill.errors import ArtifactError, ConfigError
from potstill.student.model import Student
from potstill.teacher import Teacher
from tiny_words import VOCABULARY, tiny_tokenizer


@pytest.fixture(scope="module")
def config(tiny_backbone):
    return PotstillConfig.build(
        {
            "data": {"source": "embedded", "limit": 60},
            "teacher": {"backbone": str(tiny_backbone)},
            "student": {"embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "training": {"epochs": 3}},
            "distillation": {"hidden_weight": 1.0},
            "runtime": {"device": "cpu", "precision": "32-true"},
        }
    )


@pytest.fixture(scope="module")
def corpus(config):
    return potstill.load_corpus(config.data)


@pytest.fixture(scope="module")
def teacher(config, corpus):
    return Teacher.create(config.teacher, config.runtime, corpus, config.data.max_tokens, seed=0)


@pytest.fixture
def student(config, corpus):
    return Student.create(config.student, corpus, config.data.max_tokens, config.teacher.backbone, seed=0)


@pytest.mark.parametrize("echo", [False, True])
def test_states_are_the_teachers_standardised(config, corpus, student, echo):
    settings = config.teacher.model_copy(update={"echo": echo})
    teacher = Teacher.create(settings, config.runtime, corpus, config.data.max_tokens, seed=0)
    found = with_hidden_states(student.training_set(corpus.train), student, teacher, corpus.train).hidden
    data = teacher.training_set(corpus.train)
    tokens = tokenise(corpus.train, teacher.tokenizer, teacher.manifest.max_tokens, teacher.classifier.padding_id)
    ends = WordEnds.find(teacher.tokenizer, corpus.train.texts, teacher.manifest.max_tokens)
    expected = []
    for number in range(len(corpus.train)):
        batch = data.batch([number])
        with torch.inference_mode():
            states = teacher.classifier.model.base_model(input_ids=batch.input_ids).last_hidden_state[0]
        if echo:  # what the words of the second reading end with comes as far from the end as in the first
            states = states[len(states) - len(tokens[number]) :]
        expected.append(states[ends.places[slice(*ends.offsets[[number, number + 1]])].astype(int)].numpy())
    expected = np.concatenate(expected)
    expected = (expected - expected.mean(axis=0)) / expected.std(axis=0)
    np.testing.assert_allclose(found.values, expected, atol=2e-2)
    assert found.values.std() == pytest.approx(1.0, abs=1e-2)


def test_states_may_be_narrower_than_the_blocks(config, corpus, student, tmp_path):
    settings = {"hidden_size": 16, "word_embed_proj_dim": 12, "num_attention_heads": 2, "ffn_dim": 32}
    opt = AutoConfig.for_model("opt", **settings, vocab_size=len(VOCABULARY), num_hidden_layers=2)
    AutoModel.from_config(opt).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    narrow = config.teacher.model_copy(update={"backbone": str(tmp_path)})
    teacher = Teacher.create(narrow, config.runtime, corpus, config.data.max_tokens, seed=0)
    found = with_hidden_states(student.training_set(corpus.train), student, teacher, corpus.train).hidden
    assert found.values.shape[1] == 12
    assert np.isfinite(found.values).all()


def test_progress_counts_every_text(config, corpus, monkeypatch, capsys):
    monkeypatch.setattr("potstill.console._LINE_SECONDS", 0.0)
    teacher = Teacher.create(config.teacher, config.runtime, corpus, config.data.max_tokens, seed=7)
    teacher_states(teacher, corpus.train)
    teacher_logits(teacher, corpus.train)
    lines = capsys.readouterr().err.splitlines()
    for title, count in (("hidden states", len(corpus.train)), ("judgement", len(set(corpus.train.texts)))):
        assert [line for line in lines if title in line][-1].startswith(f"teacher's {title}: {count} of {count}")


def test_states_far_from_zero_keep_their_digits_and_what_is_always_the_same_is_0(corpus, teacher, monkeypatch):
    ends = WordEnds.find(teacher.tokenizer, corpus.train.texts, teacher.manifest.max_tokens)
    plain, shifted = (np.empty((len(ends.places), 16), np.float16) for _ in range(2))
    hidden._fill(plain, teacher, corpus.train, ends)
    states = teacher.classifier.states
    same = torch.arange(16) == 0  # a component
    monkeypatch.setattr(teacher.classifier, "states", lambda *batch: torch.where(same, 0.1, states(*batch) + 3000.0))
    hidden._fill(shifted, teacher, corpus.train, ends)
    np.testing.assert_allclose(shifted[:, 1:], plain[:, 1:], atol=2e-2)
    assert not shifted[:, 0].any()


@pytest.mark.parametrize("max_tokens", [128, 6])
def test_a_batch_gets_the_states_of_its_words_at_their_last_tokens(config, corpus, student, max_tokens):
    """Those that the teacher has read: it may cut a text earlier."""
    teacher = Teacher.create(config.teacher, config.runtime, corpus, max_tokens, seed=0)
    data = with_hidden_states(student.training_set(corpus.train), student, teacher, corpus.train)
    ends = WordEnds.find(student.tokenizer, corpus.train.texts, student.max_tokens)
    read = WordEnds.find(teacher.tokenizer, corpus.train.texts, max_tokens)
    chosen = [7, 3, 11]
    batch = data.batch(chosen)
    expected_ids, expected_states = [], []
    assert any(read.counts[chosen] < ends.counts[chosen]) == (max_tokens == 6)
    for number in chosen:
        places = ends.places[ends.offsets[number] :][: read.counts[number]]
        expected_ids += data.tokens[number][places].tolist()
        expected_states.append(data.hidden.values[slice(*read.offsets[[number, number + 1]])])
    assert batch.input_ids.flatten()[batch.hidden_places].tolist() == expected_ids
    np.testing.assert_array_equal(batch.hidden.numpy(), np.concatenate(expected_states).astype(np.float32))


def test_the_distance_is_added_with_its_weight(corpus, teacher, student):
    data = with_hidden_states(student.training_set(corpus.train), student, teacher, corpus.train)
    batch = data.batch(range(6))
    model = Matching(student.network, batch.hidden.shape[1]).train()
    student.network.dropout.p = 0.0
    outputs = model(*batch.inputs)
    parts = MatchingObjective(Objective(), 0.25, model.projection)(outputs, batch)
    logits, states = outputs
    distances = [
        (model.projection(state) - target).square().mean()
        for state, target in zip(states.flatten(0, 1)[batch.hidden_places], batch.hidden, strict=True)
    ]
    assert float(parts["hidden"]) == pytest.approx(float(torch.stack(distances).mean()), rel=1e-5)
    alone = Objective()(logits, batch)["loss"]
    assert float(parts["loss"]) == pytest.approx(float(alone + 0.25 * parts["hidden"]), rel=1e-6)
    assert torch.equal(model.eval()(*batch.inputs), student.network.eval()(*batch.inputs))


def test_a_batch_without_a_single_word_has_no_distance(corpus, teacher, student):
    """Every text of it may be one word that is cut off."""
    data = with_hidden_states(student.training_set(corpus.train), student, teacher, corpus.train)
    batch = data.batch(range(3))
    nothing = replace(batch, hidden=batch.hidden[:0], hidden_places=batch.hidden_places[:0])
    model = Matching(student.network, batch.hidden.shape[1]).train()
    parts = MatchingObjective(Objective(), 1.0, model.projection)(model(*batch.inputs), nothing)
    assert parts["hidden"] == 0.0
    parts["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_states_serve_students_of_any_vocabulary_and_length(config, corpus, teacher, student, monkeypatch):
    """The teacher has read them once; a student that cuts earlier leaves the last of them out."""
    pipeline.have_judged(config, corpus, [teacher], None)
    monkeypatch.setattr(hidden, "_fill", lambda *_: pytest.fail("the teacher was asked again"))
    whole = with_hidden_states(student.training_set(corpus.train), student, teacher, corpus.train)
    short = Student.create(config.student, corpus, 6, config.teacher.backbone, seed=0)
    cut = with_hidden_states(short.training_set(corpus.train), short, teacher, corpus.train)
    assert len(cut.hidden.places) < len(whole.hidden.places)
    for number in range(20):
        kept = cut.batch([number]).hidden
        assert torch.equal(kept, whole.batch([number]).hidden[: len(kept)])


def test_a_student_comes_nearer_to_its_teacher(config, corpus, teacher, tmp_path):
    settings = config.student.training.model_copy(update={"epochs": 12, "learning_rate": 1e-2, "patience": None})
    student = config.student.model_copy(update={"training": settings, "hidden_size": 32})
    trained = potstill.distill(config.model_copy(update={"student": student}), corpus, teacher, tmp_path / "student")
    distances = [record["train_hidden"] for record in trained.fit.history]
    assert distances[-1] < 0.9 * distances[0]
    assert "projection.weight" not in load_file(tmp_path / "student" / "model.safetensors")


def test_a_disk_without_room_for_the_states_is_told(corpus, teacher, student, monkeypatch, tmp_path):
    """To leave them out without a word would be to train another student than was asked for."""
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path))
    usage = type(shutil.disk_usage(tmp_path))(total=1 << 30, used=0, free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(ArtifactError, match=r"expected room .*\n.*POTSTILL_CACHE .*hidden_weight to 0"):
        with_hidden_states(student.training_set(corpus.train), student, teacher, corpus.train)


def test_pairs_are_refused(config, corpus, teacher, tmp_path):
    paired = [replace(part, pairs=part.texts) for part in (corpus.train, corpus.selection, corpus.evaluation)]
    corpus = replace(corpus, train=paired[0], selection=paired[1], evaluation=paired[2])
    teacher = replace(teacher, manifest=replace(teacher.manifest, pairs=True))
    with pytest.raises(ConfigError, match="hidden_weight"):
        potstill.distill(config, corpus, teacher, tmp_path / "student")
