"""Several processes that share each batch."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from safetensors.torch import load_file

from commandline import potstill

EPOCHS = 30
ROWS = [f"{first} w{number} w{number + 1},{first}" for first in ("w1", "w2") for number in range(3, 17)]


def workers(process):
    """Find the processes that torchrun has started, by rank."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found[int(child.environ()["RANK"])] = child
        except (KeyError, psutil.Error):
            continue
    return found


@pytest.mark.usefixtures("one_thread")
def test_two_processes_train_what_one_does_and_another_number_resumes(tiny_backbone, tmp_path):
    data, alone, out = tmp_path / "data.csv", tmp_path / "alone", tmp_path / "out"
    data.write_text("\n".join(["text,label", *ROWS]))
    settings = ("--backbone", tiny_backbone, "--epochs", EPOCHS, "--batch-size", 5, "--device", "cpu")
    command = ("finetune", data, *settings, "--checkpoint-seconds", 0)
    assert potstill(*command, "--out", alone) == 0

    several = [sys.executable, "-m", "potstill", *map(str, command), "--devices", "2", "--out", str(out)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(several, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        history = out / "history.jsonl"
        while not (history.is_file() and history.read_text().count("\n") > 2):  # in the middle
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        workers(process)[1].send_signal(signal.SIGKILL)
        assert process.wait() == 128 + signal.SIGKILL
    assert history.read_text().count("\n") < EPOCHS
    assert potstill(*command, "--out", out) == 0

    expected, found = ([json.loads(line) for line in (one / "history.jsonl").open()] for one in (alone, out))
    for name in ("train_loss", "validation_loss"):
        assert [one[name] for one in found] == pytest.approx([one[name] for one in expected], abs=1e-5)
    (weights,) = alone.glob("adapter*.safetensors")
    for name, weight in load_file(weights).items():
        assert load_file(out / weights.name)[name] == pytest.approx(weight, abs=1e-4)
