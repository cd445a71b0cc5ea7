"""`potstill run` and the single steps as a user ends them: killed, interrupted, resumed."""

import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from commandline import potstill
from potstill.training.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("one_thread", "no_plots")

CONFIG = """
data: {{source: builtin, max_train_examples: 80}}
teacher: {{backbone: {backbone}, training: {{epochs: 3, batch_size: 8}}, lora: {{dropout: 0.1}}}}
augment: {{perturbed: 40}}
student:
  embedding_size: 8
  hidden_size: 8
  vocab_size: 300
  pretraining: {{epochs: 2, batch_size: 8}}
  training: {{epochs: 4, batch_size: 8}}
  seeds: [0]
runtime: {{device: cpu, precision: 32-true, checkpoint_seconds: 0, executor: none}}
"""
SIGNALLED = """
import os
from pathlib import Path
from potstill.cli import main
from potstill.training.checkpoint import Checkpoint

left, on_step = 3, Checkpoint.on_step

def signalled(checkpoint, trainer):
    global left
    left -= checkpoint.path == Path({file!r})
    if left == 0:
        left = -1
        os.kill(os.getpid(), {number})
    on_step(checkpoint, trainer)

Checkpoint.on_step = signalled
main()
"""


@pytest.fixture(scope="module")
def run_snapshot(script):
    return script("run_snapshot")


@pytest.fixture(scope="module")
def config(tmp_path_factory, model_directory):
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(CONFIG.format(backbone=model_directory("gpt2")))
    return file


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert potstill("run", "--config", config, "--out", out) == 0
    return out


def run_until(file, number, *arguments):
    """Run the command, which gets a signal in the third step that is kept in `file`; return its status."""
    code = SIGNALLED.format(file=str(file), number=int(number))
    if number == signal.SIGKILL:
        return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False).returncode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["potstill", *map(str, arguments)])
        patch.setattr(Checkpoint, "on_step", Checkpoint.on_step)  # which is put back
        with pytest.raises(SystemExit) as ended:
            exec(code, {})
    return ended.value.code


def test_run_ended_in_every_way_ends_like_an_uninterrupted_one(
    config, uninterrupted, tmp_path, run_snapshot, capsys, monkeypatch
):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"
    command = ("run", "--config", config, "--out", out)
    assert run_until(out / "teacher/seed-0/checkpoint.safetensors", signal.SIGKILL, *command) == -signal.SIGKILL
    assert not (out / "teacher/seed-0/training.json").exists()

    assert run_until(out / "distilled/seed-0/pretraining-checkpoint.safetensors", signal.SIGTERM, *command) == 143
    error = capsys.readouterr().err
    assert "teacher 0  resumes after step 2 of " in error
    assert "stopped by SIGTERM; language modelling 0 is kept as it was after step 3" in error
    assert f"To resume:\n  potstill run --config {config} --out {out}\n" in error
    assert "Traceback" not in error

    assert run_until(out / "baseline/seed-0/checkpoint.safetensors", signal.SIGINT, *command) == 130
    error = capsys.readouterr().err
    assert "finished before: teacher 0\n" in error
    assert "language modelling 0  resumes after step 3 of " in error
    assert "stopped by Ctrl-C; baseline 0 is kept as it was after step 3" in error

    assert potstill(*command) == 0
    error = capsys.readouterr().err
    assert f"going on in {out}\n" in error
    assert "finished before: teacher 0, distilled 0\n" in error
    assert "baseline 0  resumes after step 3 of " in error
    assert run_snapshot.differences(run_snapshot.contents(out), run_snapshot.contents(uninterrupted)) == []
    run_snapshot.verify_all(out)


def test_finished_run_is_shown_and_never_changed(config, uninterrupted, capsys):
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    assert potstill("run", "--config", config, "--out", uninterrupted) == 0
    printed = capsys.readouterr()
    assert f"{uninterrupted} holds the results of this command, finished before" in printed.err
    assert "training" in printed.out
    assert f"report: {uninterrupted / 'report.md'}" in printed.out
    assert potstill("run", "--config", config, "--out", uninterrupted, "--restart") == 1
    assert "nothing is ever overwritten" in capsys.readouterr().err
    del before[uninterrupted / "potstill.lock"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_interrupted_run_is_found_without_its_directory(config, uninterrupted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(uninterrupted, tmp_path / "runs" / "tiny-20240401-120000")
    shutil.rmtree(run / "baseline")
    for name in ("summary.json", "report.md", "checksums.json", "predictions.csv"):
        (run / name).unlink()
    assert potstill("run", "--config", config, "--student-epochs", "5", "--out", run) == 1
    assert "was begun with other settings or inputs: student.training.epochs\n" in capsys.readouterr().err
    assert potstill("run", "--config", config) == 0
    printed = capsys.readouterr()
    assert "going on in runs/tiny-20240401-120000, which was begun with the same settings; --restart" in printed.err
    assert "report: runs/tiny-20240401-120000/report.md" in printed.out
    for name in ("baseline/seed-0/model.safetensors", "predictions.csv", "unlabelled/unlabelled.parquet"):
        assert (run / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_run_killed_before_its_checksums_is_not_finished(config, uninterrupted, run_snapshot, tmp_path):
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    (run / "checksums.json").unlink()
    assert potstill("run", "--config", config, "--out", run) == 0
    run_snapshot.verify_all(run)
    assert run_snapshot.differences(run_snapshot.contents(run), run_snapshot.contents(uninterrupted)) == []


@pytest.mark.parametrize("command", ["finetune", "train"])
def test_single_steps_are_resumed(command, config, tmp_path, run_snapshot, capsys):
    arguments = (command, "--config", config, "--seeds", "0,1", "--epochs", "1", "--out")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert potstill(*arguments, whole) == 0
    assert run_until(out / "seed-1/checkpoint.safetensors", signal.SIGINT, *arguments, out) == 130
    resume = f"potstill {command} --config {config} --seeds 0,1 --epochs 1 --out {out}\n"
    assert resume in capsys.readouterr().err
    assert potstill(*arguments, out) == 0
    assert "finished before: " in capsys.readouterr().err
    assert run_snapshot.contents(out) == run_snapshot.contents(whole)
    assert potstill(*arguments, out) == 0
    assert f"{out} holds the results of this command, finished before" in capsys.readouterr().err
    assert run_snapshot.contents(out) == run_snapshot.contents(whole)


def test_training_is_resumed_with_the_same_files_by_other_paths(model_directory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_directory("gpt2"), "base")
    rows = [f"w{number} w{number % 7},{'ab'[number % 2]}" for number in range(60)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows]))
    settings = ("--device", "cpu", "--precision", "32-true", "--checkpoint-seconds", "0", "--out", "out")
    file = tmp_path / "out" / "checkpoint.safetensors"
    begun = ("finetune", "data.csv", "--backbone", "base", *settings)
    assert run_until(file.relative_to(tmp_path), signal.SIGINT, *begun) == 130
    capsys.readouterr()
    (tmp_path / "data.csv").rename("same.csv")
    assert potstill("finetune", tmp_path / "same.csv", "--backbone", tmp_path / "base", *settings) == 0
    said = capsys.readouterr().err
    assert "teacher 0  resumes after step 3 of " in said
    assert "starts again" not in said


POSITIVE = "data: {positive_class: acceptable}"


@pytest.mark.parametrize(
    ("command", "free", "counts"),
    [
        ("finetune", "student: {cell: rnn}\naugment: {sampled: 9}\n" + POSITIVE, "teacher: {echo: true}"),
        ("augment", "student: {cell: rnn}\ndistillation: {teachers: average}\n" + POSITIVE, "augment: {perturbed: 9}"),
        ("train", "augment: {sampled: 9}\nruntime: {workers: 3}\n" + POSITIVE, "student: {cell: rnn}"),
        ("run", "search: {trials: 9}", "augment: {perturbed: 9}"),
        ("run", "search: {trials: 9}", POSITIVE),  # the report shows its F1
    ],
)
def test_sections_without_an_effect_may_change(command, free, counts, config, uninterrupted, tmp_path, capsys):
    """One file serves all commands: a teacher that was tuned for hours stays, whatever students are tried next."""
    changed, out = tmp_path / "tiny.yaml", tmp_path / "out"
    values = yaml.safe_load(config.read_text())
    if command == "run":
        shutil.copytree(uninterrupted, out)

    def begin(more):
        sections = yaml.safe_load(more)
        changed.write_text(yaml.safe_dump(values | {name: values.get(name, {}) | sections[name] for name in sections}))
        return potstill(command, "--config", changed, "--out", out)

    assert begin("{}") == begin(free) == 0
    assert begin(counts) == 1
    assert "begun with other settings" in capsys.readouterr().err


def test_training_killed_before_its_checkpoint_was_removed_removes_it(config, tmp_path, capsys):
    arguments = ("train", "--config", config, "--epochs", "1", "--out", tmp_path / "out")
    assert potstill(*arguments) == 0
    left = tmp_path / "out" / "checkpoint.safetensors"
    left.write_bytes(b"")
    assert potstill(*arguments) == 0
    assert not left.exists()
    capsys.readouterr()
    assert potstill(*arguments) == 0
    assert "holds the results of this command, finished before" in capsys.readouterr().err


def test_content_of_unlabelled_files_decides_too(config, tmp_path, capsys):
    more, out = tmp_path / "more.txt", tmp_path / "out"
    more.write_text("A cat sat.\n")
    arguments = ("augment", "--config", config, "--unlabelled", more, "--out", out)
    assert potstill(*arguments) == 0
    assert potstill(*arguments) == 0
    more.write_text("Another cat sat.\n")
    assert potstill(*arguments) == 1
    assert "begun with other settings or inputs: inputs.unlabelled files\n" in capsys.readouterr().err
    more.unlink()
    assert potstill(*arguments) == 1
    assert "expected a file of texts, found none" in capsys.readouterr().err


def test_distill_is_resumed_with_the_same_teacher_only(config, uninterrupted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    teacher = uninterrupted / "teacher/seed-0"
    arguments = ("distill", "--config", config, "--teacher", teacher)
    with monkeypatch.context() as patch:
        patch.setattr("potstill.experiment.students.distill", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        assert potstill(*arguments) == 143
    (begun,) = (tmp_path / "runs").iterdir()
    assert f"--teacher {teacher} --out runs/{begun.name}" in capsys.readouterr().err
    other = tmp_path / "other"
    assert potstill("finetune", "--config", config, "--seeds", "1", "--epochs", "1", "--out", other) == 0
    assert potstill("distill", "--config", config, "--teacher", other, "--epochs", "1", "--out", begun) == 1
    assert "begun with other settings" in capsys.readouterr().err
    assert potstill(*arguments) == 0
    assert capsys.readouterr().out == f"runs/{begun.name}\n"
    assert yaml.safe_load((begun / "config.yaml").read_text())["student"]["seeds"] == [0]
