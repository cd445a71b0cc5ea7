"""Several students trained at once are those trained one after the other, also after an interruption."""

import os
import signal
import threading

import pytest

import potstill
from commandline import potstill as command
from potstill.config import PotstillConfig
from potstill.errors import TrainingError
from potstill.experiment import students as module
from potstill.experiment.students import StudentTask, train_students
from potstill.training.checkpoint import CHECKPOINT_FILE

SEEDS = (0, 1, 2)


@pytest.fixture
def config():
    student = {"embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "dropout": 0.3, "training": {"epochs": 3}}
    return PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 120},
            "student": student | {"seeds": SEEDS},
            "runtime": {"device": "cpu", "workers": 2},
        }
    )


@pytest.fixture
def in_processes(monkeypatch):
    monkeypatch.setattr(module, "_WORTH_PROCESSES", 0)


def tasks(directory):
    return [StudentTask("baseline", seed, directory / f"seed-{seed}") for seed in SEEDS]


def contents(directory):
    names = ("model.safetensors", "model.onnx", "student.json", "tokenizer.json")
    return [[(directory / f"seed-{seed}" / name).read_bytes() for name in names] for seed in SEEDS]


@pytest.mark.usefixtures("one_thread")
def test_students_trained_at_once_equal_those_trained_in_order(config, tmp_path, monkeypatch):
    corpus = potstill.load_corpus(config.data)
    train_students(tasks(tmp_path / "in-order"), config, corpus, None)
    monkeypatch.setattr(module, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(module, "train", None)  # the workers have their own
    trained = train_students(tasks(tmp_path / "at-once"), config, corpus, None)
    assert [(one.record.seed, len(one.fit.history)) for one in trained] == [(seed, 3) for seed in SEEDS]
    assert contents(tmp_path / "at-once") == contents(tmp_path / "in-order")


@pytest.mark.usefixtures("in_processes")
def test_error_of_a_training_is_raised(config, tmp_path):
    hopeless = config.student.training.model_copy(update={"learning_rate": 1e30, "max_grad_norm": None})
    config = config.model_copy(update={"student": config.student.model_copy(update={"training": hopeless})})
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train_students(tasks(tmp_path), config, potstill.load_corpus(config.data), None)


def test_students_with_little_work_are_trained_in_this_process(config, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "train", lambda _config, _corpus, _directory, seed, **_named: seen.append(seed))
    train_students(tasks(tmp_path), config, potstill.load_corpus(config.data), None)
    assert seen == list(SEEDS)


@pytest.mark.usefixtures("one_thread", "in_processes")
def test_students_ended_by_a_signal_are_resumed(tmp_path, capsys, monkeypatch):
    training = {"epochs": 4, "batch_size": 2, "patience": None}
    student = {"embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "seeds": SEEDS, "training": training}
    settings = {
        "data": {"source": "builtin", "max_train_examples": 200},
        "student": student,
        "runtime": {"device": "cpu", "checkpoint_seconds": 0.0, "workers": 2},
    }
    config, file, out = PotstillConfig.build(settings), tmp_path / "tiny.yaml", tmp_path / "out"
    corpus = potstill.load_corpus(config.data)
    config.save(file)
    ended = threading.Event()

    def terminate():
        while not all((out / f"seed-{seed}" / CHECKPOINT_FILE).is_file() for seed in (0, 1)):
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    try:
        assert command("train", "--config", file, "--out", out) == 128 + signal.SIGTERM
    finally:
        ended.set()
    assert "Traceback" not in capsys.readouterr().err
    rarely = config.model_copy(update={"runtime": config.runtime.model_copy(update={"checkpoint_seconds": 60.0})})
    monkeypatch.undo()
    train_students(tasks(out), rarely, corpus, None)
    assert "baseline 0  resumes after step" in capsys.readouterr().err
    train_students(tasks(tmp_path / "whole"), rarely, corpus, None)
    assert contents(out) == contents(tmp_path / "whole")
