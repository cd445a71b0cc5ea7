"""What a machine with a GPU adds: the rest of the suite compares the sums of a CPU (`conftest.py` hides the GPU)."""

import json
import os
import shutil
import subprocess
import sys

import pytest

CONFIG = """
data: {{source: builtin, max_train_examples: 120}}
teacher: {{backbone: {backbone}, echo: true, training: {{epochs: 1}}, seeds: [0, 1]}}
augment: {{sampled: 20, perturbed: 20}}
student:
  embedding_size: 8
  hidden_size: 8
  vocab_size: 300
  pretraining: {{epochs: 1}}
  training: {{epochs: 1}}
  seeds: [0, 1]
distillation: {{teachers: average}}
"""


def see_the_gpu(code, *arguments):
    shown = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run([sys.executable, "-c", code, *arguments], env=shown, capture_output=True, text=True)


@pytest.fixture(scope="module")
def gpu():
    """Skip where there is none, or where torch is built for something else."""
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no NVIDIA GPU on this machine")
    if see_the_gpu("import torch; assert torch.cuda.is_available()").returncode:
        pytest.skip("torch does not see the NVIDIA GPU of this machine")


@pytest.mark.usefixtures("gpu")
def test_the_whole_way_on_a_gpu(tmp_path, model_directory):
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(CONFIG.format(backbone=model_directory("gpt2")))
    run = "from potstill.cli import main; main()"
    ended = see_the_gpu(run, "run", "--config", str(config), "--out", str(out))
    assert ended.returncode == 0, ended.stderr
    assert json.loads((out / "environment.json").read_text())["device"] == "cuda"
    assert len(json.loads((out / "summary.json").read_text())["models"]) == 6
