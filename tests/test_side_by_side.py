"""Several students trained at once: what comes of them, and what an interruption leaves."""

import os
import signal
import subprocess
import sys
import time

import pytest

import potstill
from potstill import pipeline
from potstill.config import PotstillConfig
from potstill.errors import TrainingError
from potstill.training.checkpoint import CHECKPOINT_FILE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

SEEDS = (0, 1, 2)
FORKED = """
from potstill import pipeline
pipeline._WORTH_FORKING = 0
pipeline.available_workers = lambda _device: 2
from potstill.cli import main
main()
"""


@pytest.fixture
def config():
    return PotstillConfig.build(
        {
            "data": {"source": "embedded", "limit": 120},
            "student": {
                "embedding_size": 8,
                "hidden_size": 8,
                "vocab_size": 300,
                "dropout": 0.3,
                "training": {"epochs": 3},
                "seeds": SEEDS,
            },
            "runtime": {"device": "cpu"},
        }
    )


@pytest.fixture
def forked(monkeypatch):
    monkeypatch.setattr(pipeline, "_WORTH_FORKING", 0)
    monkeypatch.setattr(pipeline, "available_workers", lambda _device: 2)


def contents(directory):
    names = ("model.safetensors", "model.onnx", "student.json", "tokenizer.json")
    return [[(directory / f"seed-{seed}" / name).read_bytes() for name in names] for seed in SEEDS]


@pytest.mark.usefixtures("one_thread", "forked")
def test_students_are_those_of_one_after_the_other(config, tmp_path):
    corpus = potstill.load_corpus(config.data)
    for seed in SEEDS:
        potstill.train(config, corpus, tmp_path / "alone" / f"seed-{seed}", seed)

    def student(seed):
        (tmp_path / f"process-{seed}").write_text(str(os.getpid()))
        return potstill.train(config, corpus, tmp_path / "forked" / f"seed-{seed}", seed)

    trained = pipeline.side_by_side(student, SEEDS, config, corpus)
    assert [one.record.seed for one in trained] == list(SEEDS)
    assert [len(one.fit.history) for one in trained] == [3, 3, 3]
    assert contents(tmp_path / "forked") == contents(tmp_path / "alone")
    processes = {int((tmp_path / f"process-{seed}").read_text()) for seed in SEEDS}
    assert os.getpid() not in processes


@pytest.mark.usefixtures("forked")
def test_a_training_that_breaks_down_is_told(config):
    corpus = potstill.load_corpus(config.data)

    def student(seed):
        if seed == 1:
            raise TrainingError("the loss is nan")
        return seed

    with pytest.raises(TrainingError, match="the loss is nan"):
        pipeline.side_by_side(student, SEEDS, config, corpus)


def test_little_work_is_done_here(config, monkeypatch):
    monkeypatch.setattr(pipeline, "available_workers", lambda _device: 2)
    seen = []
    corpus = potstill.load_corpus(config.data)
    pipeline.side_by_side(lambda seed: seen.append((seed, os.getpid())), SEEDS, config, corpus)
    assert seen == [(seed, os.getpid()) for seed in SEEDS]


def test_what_a_signal_ends_is_resumed(tmp_path):
    """Both trainings keep their state; the same command ends as if nothing had happened."""
    file = tmp_path / "tiny.yaml"
    file.write_text(
        "data: {source: embedded, limit: 400}\n"
        "student: {embedding_size: 8, hidden_size: 8, vocab_size: 300, seeds: [0, 1, 2],\n"
        "          training: {epochs: 6, batch_size: 2, patience: null}}\n"
        "runtime: {device: cpu, checkpoint_seconds: 0.1}\n"
    )

    def start(out):
        command = [sys.executable, "-c", FORKED, "train", "--config", str(file), "--out", str(out)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    whole, out = tmp_path / "whole", tmp_path / "out"
    undisturbed = start(whole)
    assert undisturbed.wait() == 0, undisturbed.stderr.read()
    ended = start(out)
    while not all((out / f"seed-{seed}" / CHECKPOINT_FILE).is_file() for seed in (0, 1)):
        assert ended.poll() is None, ended.stderr.read()
        time.sleep(0.01)
    ended.send_signal(signal.SIGTERM)
    _, error = ended.communicate()
    assert ended.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; each training is kept as it was after its latest step" in error
    assert "Traceback" not in error
    again = start(out)
    _, error = again.communicate()
    assert again.returncode == 0
    assert "baseline 0  goes on after step" in error
    assert "baseline 1  goes on after step" in error
    assert contents(out) == contents(whole)
