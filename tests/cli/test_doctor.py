import shutil
import subprocess
import sys

import numpy as np
import pytest

from commandline import potstill
from potstill.cli import doctor
from potstill.config import LoRAConfig, PotstillConfig, RNNConfig, RuntimeConfig, TransformerConfig
from potstill.data import Corpus, Examples
from potstill.experiment.record import TrainingRecord
from potstill.store.checksums import CHECKSUMS_FILE, write_checksums
from potstill.student.student import Student
from potstill.teacher.transformer import TransformerTeacher

CPU = RuntimeConfig(device="cpu")
EXAMPLES = Examples(("w1 w2 w3", "w4", "w5 w6"), np.array([0, 1, 0]))
CORPUS = Corpus("tiny", "made up", ("bad", "good"), EXAMPLES, EXAMPLES, EXAMPLES)
RECORD = {"seed": 0, "description": "it", "parameters": 2, "trainable_parameters": 1, "bytes_on_disk": 3}


@pytest.fixture(scope="module")
def made(tiny_backbone, tmp_path_factory):
    """The files of a run that the command checks."""
    directory = tmp_path_factory.mktemp("run")
    PotstillConfig().save(directory / "config.yaml")
    (directory / "summary.json").write_text('{"models": []}')
    write_checksums(directory, ["config.yaml", "summary.json"])
    config = TransformerConfig(backbone=str(tiny_backbone), lora=LoRAConfig(rank=2))
    TransformerTeacher.create(config, CPU, CORPUS, 16, 0).save(directory / "teacher" / "seed-0")
    student = Student.create(RNNConfig(embedding_size=4, hidden_size=4, vocab_size=257), CORPUS, 9, 0)
    for role in ("distilled", "baseline"):
        student.save(directory / role / "seed-0")
    for role in ("teacher", "distilled"):  # the baseline's was interrupted
        (directory / role / "seed-0" / "history.jsonl").write_text('{"epoch": 1}\n')
        record = TrainingRecord(role=role, best={"mcc": 0.5}, train_seconds=1.0, **RECORD)
        record.save(directory / role / "seed-0")
    return directory


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def broken(findings):
    return [finding.subject for finding in findings if finding.state == "broken"]


def test_this_installation():
    findings = {finding.subject: finding for finding in doctor.examine_installation()}
    assert not broken(findings.values())
    assert {"Python", "packages", "packages of 'train'", "torch"} <= findings.keys()
    assert "onnxruntime" in findings["packages"].found
    assert "torch" in findings["packages of 'train'"].found
    assert "torch" not in findings["packages of 'search'"].found  # named once


@pytest.mark.parametrize(
    ("requirements", "state", "words"),
    [
        (["numpy>=1.26", "click"], "fine", "numpy"),
        (["numpy>=99.1"], "broken", "expected >=99.1"),
        (["no-such-thing>=1"], "broken", "no-such-thing is missing"),
        (["numpy>=1; extra == 'train'", "no-such-thing; extra == 'train'"], "absent", "no-such-thing is missing"),
        (["numpy>=99; extra == 'train'"], "broken", "expected >=99"),
    ],
)
def test_packages_are_compared_with_the_metadata(monkeypatch, requirements, state, words):
    monkeypatch.setattr(doctor, "requires", lambda name: requirements)
    found = next(finding for finding in doctor.examine_installation() if words in finding.found)
    assert found.state == state
    assert ("pip install" in found.remedy) == (state != "fine")


def test_a_whole_run(run):
    findings = list(doctor.examine_directory(run))
    assert not broken(findings)
    found = {finding.subject: finding.found for finding in findings}
    assert "2 files match their checksums" in found["the run's files"]
    assert "finished" in found["distilled/seed-0"]
    assert "has not ended" in found["baseline/seed-0"]
    assert "one of bad, good" in found["distilled/seed-0: answers"]
    assert potstill("doctor", run) == 0
    assert potstill("doctor", run / "distilled" / "seed-0") == 0


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-5] + bytes([content[-5] ^ 2]) + content[-4:])


@pytest.mark.parametrize(
    "name",
    [
        *("summary.json", "config.yaml", "teacher/seed-0/teacher.json", "teacher/seed-0/adapter_model.safetensors"),
        *("teacher/seed-0/training.json", "distilled/seed-0/model.onnx", "distilled/seed-0/history.jsonl"),
        "baseline/seed-0/tokenizer.json",
    ],
)
def test_an_altered_file_is_named(run, name, capsys):
    flip(run / name)
    assert potstill("doctor", run) == 1
    printed = capsys.readouterr().out
    assert "BROKEN" in printed
    assert name in printed


def test_another_directory_is_refused(tmp_path, capsys):
    assert potstill("doctor", tmp_path) == 1
    assert "expected a run or a model, found neither" in capsys.readouterr().err


def test_a_reported_run_without_checksums_is_broken(run):
    (run / "report.md").touch()
    (run / CHECKSUMS_FILE).unlink()
    assert broken(doctor.examine_directory(run)) == ["the run's files"]


def test_an_exported_student_is_called_exported(run, tmp_path):
    alone = shutil.copytree(run / "distilled" / "seed-0", tmp_path / "alone")
    assert potstill("export", alone, "--out", tmp_path / "model") == 0
    found = {finding.subject: finding.found for finding in doctor.examine_directory(tmp_path / "model")}
    assert found["model"].endswith("exported")


def test_it_needs_no_training_package(run):
    program = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "pydantic", "onnx", "safetensors", "yaml", "rich",
                                      "pyarrow", "filelock", "scipy"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
from potstill.cli import main
main(sys.argv[1:])
"""

    def look(*arguments):
        command = [sys.executable, "-c", program, "doctor", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    installation, directory = look(), look(str(run))
    assert "BROKEN  torch: can't be imported" in installation.stdout  # its metadata is there
    assert installation.stderr == directory.stderr == ""
    assert directory.returncode == 0
    assert "distilled/seed-0: answers: one of bad, good" in directory.stdout
    assert "settings: not checked\n        what to do: pip install '.[train]'" in directory.stdout
