import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from commandline import potstill
from potstill import doctor
from potstill.config import LoRAConfig, PotstillConfig, RuntimeConfig, StudentConfig, TeacherConfig
from potstill.data import Corpus, Examples
from potstill.doctor import Finding, examine_directory, examine_installation, seal_as_it_stands
from potstill.errors import ArtifactError
from potstill.models import TrainingRecord
from potstill.report import read_summary
from potstill.runtime.directory import TRANSFER_FILE
from potstill.runtime.seal import SEAL, seal, verify
from potstill.student.model import Student
from potstill.teacher import Teacher
from potstill.training.checkpoint import Checkpointer, Checkpointing, State
from potstill.transfer.sets import TransferSet
from resealed import reseal

EXAMPLES = Examples(("w1 w2 w3", "w4", "w5 w6"), np.array([0, 1, 0]))
CORPUS = Corpus("tiny", "made up", ("bad", "good"), EXAMPLES, EXAMPLES, EXAMPLES)
RECORD = {"seed": 0, "parameters": 2, "trainable_parameters": 1, "bytes_on_disk": 3, "train_seconds": 1.0}


@pytest.fixture(scope="module")
def made(tiny_backbone, tmp_path_factory):
    """What `potstill run` leaves, as far as it is looked at."""
    directory = tmp_path_factory.mktemp("run")
    PotstillConfig().save(directory / "config.yaml")
    (directory / "summary.json").write_text('{"models": []}')
    seal(directory, ["config.yaml", "summary.json"])
    config = TeacherConfig(backbone=str(tiny_backbone), lora=LoRAConfig(rank=2))
    Teacher.create(config, RuntimeConfig(device="cpu"), CORPUS, 16, 0).save(directory / "teacher" / "seed-0")
    student = Student.create(StudentConfig(embedding_size=4, hidden_size=4, vocab_size=257), CORPUS, 9, "", 0)
    for role in ("distilled", "baseline"):
        student.save(directory / role / "seed-0")
    for role in ("teacher", "distilled"):  # the baseline's was interrupted
        (directory / role / "seed-0" / "history.jsonl").write_text('{"epoch": 1}\n')
        TrainingRecord(role=role, best={"mcc": 0.5}, **RECORD).save(directory / role / "seed-0")
    TransferSet(("a",), None, ("file:a",), {}).save(directory / "transfer" / TRANSFER_FILE)
    return directory


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def broken(findings):
    return [finding for finding in findings if finding.state == "broken"]


def test_this_installation_is_fit():
    findings = {finding.subject: finding for finding in examine_installation()}
    assert not broken(findings.values())
    assert {"Python", "packages", "packages of 'train'", "cache", "threads", "matrix product"} <= findings.keys()
    assert "onnxruntime" in findings["packages"].found
    assert "torch" in findings["packages of 'train'"].found
    assert "torch" not in findings["packages of 'search'"].found  # told once
    assert float(findings["matrix product"].found.split()[0].replace(",", "")) > 0


@pytest.mark.parametrize(
    ("requirements", "state", "words"),
    [
        (["numpy>=1.26", "click"], "fine", "numpy"),
        (["numpy>=99.1"], "broken", "older than 99.1"),
        (["no-such-thing>=1"], "broken", "no-such-thing is missing"),
        (["numpy>=1; extra == 'train'", "no-such-thing; extra == 'train'"], "absent", "no-such-thing is missing"),
        (["numpy>=99; extra == 'train'"], "broken", "older than 99"),
    ],
)
def test_packages_are_compared_with_what_is_asked_for(monkeypatch, requirements, state, words):
    monkeypatch.setattr(doctor, "requires", lambda name: requirements)
    findings = list(doctor._packages())
    found = next(finding for finding in findings if words in finding.found)
    assert found.state == state
    assert ("pip install" in found.remedy) == (state != "fine")


def test_versions_are_compared_by_number():
    numbers = [doctor._numbers(version) for version in ("1.9", "1.10", "1.10.1", "2", "2.13.0+cpu", "10.0rc1")]
    assert numbers == sorted(numbers)
    assert doctor._numbers("1.0") == doctor._numbers("1")


def test_a_cache_that_can_not_be_written_to(tmp_path, monkeypatch):
    assert doctor._cache(tmp_path / "new" / "place").state == "fine"
    assert not (tmp_path / "new").exists()

    def refused(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    found = doctor._cache(tmp_path)
    assert found.state == "broken"
    assert "POTSTILL_CACHE" in found.remedy


def test_a_whole_run(run):
    findings = list(examine_directory(run))
    assert not broken(findings)
    found = {finding.subject: finding.found for finding in findings}
    assert "2 files are what was saved" in found["the run's files"]
    assert "finished" in found["distilled/seed-0"]
    assert "has not ended" in found["baseline/seed-0"]
    assert "one of bad, good" in found["distilled/seed-0: answers"]
    assert "1 texts" in found["transfer set"]
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
        *("baseline/seed-0/tokenizer.json", "transfer/transfer.parquet"),
    ],
)
def test_what_was_altered_is_named(run, name, capsys):
    flip(run / name)
    assert any(name in finding.found for finding in broken(examine_directory(run)))
    assert potstill("doctor", run) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_files_that_are_meant_are_sealed_on_request(run, capsys):
    student = run / "distilled" / "seed-0"
    manifest = json.loads((student / "student.json").read_text())
    (student / "student.json").write_text(json.dumps(manifest | {"temperature": 2.0}))
    (run / "teacher" / "seed-0" / SEAL).unlink()
    flip(run / "summary.json")
    assert potstill("doctor", run) == 1
    assert potstill("doctor", "--seal", run) == 0
    assert capsys.readouterr().err.count("sealed: ") == 4
    assert set(verify(student)) >= {"student.json", "training.json", "history.jsonl", "model.safetensors"}
    assert "training.json" not in verify(run / "baseline" / "seed-0")
    Teacher.load(run / "teacher" / "seed-0", RuntimeConfig(device="cpu"))


def test_an_incomplete_model_is_not_vouched_for(run):
    (run / "distilled" / "seed-0" / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"expected a file model\.onnx, found none"):
        seal_as_it_stands(run)


def test_a_directory_of_something_else(tmp_path):
    for look in (lambda: list(examine_directory(tmp_path)), lambda: seal_as_it_stands(tmp_path)):
        with pytest.raises(ArtifactError, match="expected a run or a model, found neither"):
            look()
    assert potstill("doctor", tmp_path) == 1
    assert potstill("doctor", "--seal") == 2


def test_a_reported_run_without_its_seal_is_broken(run):
    (run / "report.md").touch()
    (run / SEAL).unlink()
    assert [one.subject for one in broken(examine_directory(run))] == ["the run's files"]
    assert potstill("doctor", run) == 1


def test_an_exported_student_is_not_called_unfinished(run, tmp_path):
    alone = shutil.copytree(run / "distilled" / "seed-0", tmp_path / "alone")
    assert potstill("export", alone, "--out", tmp_path / "model") == 0
    found = {finding.subject: finding.found for finding in examine_directory(tmp_path / "model")}
    assert found["model"].endswith("exported")


def test_a_transfer_set_of_its_own_is_looked_at(run):
    (run / "transfer" / TRANSFER_FILE).rename(run / TRANSFER_FILE)
    assert any("1 texts" in finding.found for finding in examine_directory(run))
    flip(run / TRANSFER_FILE)
    assert [one.subject for one in broken(examine_directory(run))] == ["transfer set"]


def test_checkpoints_are_looked_at(run):
    for place, name in (("baseline/seed-0", "checkpoint"), ("baseline/seed-1", "pretraining-checkpoint")):
        file = run / place / f"{name}.safetensors"
        file.parent.mkdir(exist_ok=True)
        Checkpointer(Checkpointing(file, 0.0), "key").write(State({"step": 1}, {"weight": torch.ones(20)}))
        looked_at = {one.subject: one for one in examine_directory(run)}
        assert looked_at[f"{place}: {file.name}"].state == "fine"
        flip(file)
        looked_at = {one.subject: one for one in examine_directory(run)}
        assert looked_at[f"{place}: {file.name}"].state == "broken"


def test_files_that_vanish_from_the_cache_are_no_fault(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    (tmp_path / "going").touch()
    stat = Path.stat

    def removed_by_a_training(self, **options):
        found = stat(self, **options)
        if self.name == "going":
            self.unlink()
        return found

    monkeypatch.setattr(Path, "stat", removed_by_a_training)
    assert " 3 MB" in doctor._cache(tmp_path).found


def test_nothing_is_sealed_while_a_command_is_at_work(run):
    from potstill.directories import BusyError, locked

    student = run / "distilled" / "seed-0"
    with locked(run):
        for place in (run, student):
            with pytest.raises(BusyError, match="expected no other process"):
                seal_as_it_stands(place)
    assert seal_as_it_stands(student) == [student]
    assert not (student / "potstill.lock").exists()


def test_a_killed_save_is_ended_before_it_is_vouched_for(run):
    student = run / "baseline" / "seed-0"
    whole = {file.name for file in student.iterdir()}
    (student / ".saving-x").mkdir()
    for name in whole:
        (student / name).rename(student / ".saving-x" / name)
    assert student in seal_as_it_stands(run)
    assert {file.name for file in student.iterdir()} == whole


def test_a_lock_that_is_held_and_one_that_is_not(run):
    from potstill.directories import locked

    with locked(run):
        pass
    assert Finding("lock", "fine", "free") in examine_directory(run)
    program = f"from pathlib import Path; from potstill.directories import locked\nwith locked(Path({str(run)!r})):\n"
    program += "    print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        (found,) = (finding for finding in examine_directory(run) if finding.subject == "lock")
        assert found.found == f"held: process {other.pid} is at work here"
        other.communicate("\n")


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
    assert "BROKEN torch: can't be imported" in installation.stdout  # its metadata is there
    assert installation.stderr == directory.stderr == ""
    assert directory.returncode == 0
    assert "distilled/seed-0: answers: one of bad, good" in directory.stdout
    assert "settings: not looked at - pip install 'potstill[train]'" in directory.stdout


def test_a_summary_is_read_as_it_was_sealed(run):
    flip(reseal(run) / "summary.json")
    with pytest.raises(ArtifactError, match=r"summary\.json was altered"):
        read_summary(run)
