"""`potstill run` and the single steps as a user ends them: killed, interrupted, resumed, locked."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from commandline import potstill
from potstill.directories import locked
from potstill.training.checkpoint import Checkpointer

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = """
data: {{source: embedded, limit: 80}}
teacher: {{backbone: {backbone}, training: {{epochs: 3, batch_size: 8}}, lora: {{dropout: 0.1}}}}
transfer: {{perturbed: 40}}
student:
  embedding_size: 8
  hidden_size: 8
  vocab_size: 300
  pretraining: {{epochs: 2, batch_size: 8}}
  training: {{epochs: 4, batch_size: 8}}
  seeds: [0]
runtime: {{device: cpu, precision: 32-true, checkpoint_seconds: 0}}
"""
ENDED = """
import os
from pathlib import Path
from potstill.cli import main
from potstill.training.checkpoint import Checkpointer

left, write = 3, Checkpointer.write

def writing(keeper, state):
    global left
    write(keeper, state)
    left -= keeper.path == Path({file!r})
    if left == 0:
        left -= 1
        os.kill(os.getpid(), {number})

Checkpointer.write = writing
main()
"""


@pytest.fixture(scope="module")
def remains(script):
    """What the torture compares by."""
    return script("remains")


@pytest.fixture(autouse=True, scope="module")
def no_plots():
    """Leave the slowest part of a tiny run out; where it is killed, it is drawn again as a whole anyway."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("potstill.report.draw_plots", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory, model_directory):
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(CONFIG.format(backbone=model_directory("gpt2")))
    return file


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert potstill("run", "--config", config, "--out", out) == 0
    return out


@pytest.fixture
def other_cache(tmp_path, monkeypatch):
    """What the undisturbed run knows already is computed again."""
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))


def end_at(file, number, *arguments):
    """Run the command in a process of its own, which gets a signal when it has written a checkpoint for the third time.

    Returns:
        Its status, and what it said.
    """
    code = ENDED.format(file=str(file), number=int(number))
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return ended.returncode, ended.stderr


@pytest.fixture
def signal_at(monkeypatch):
    """Return a function that has this process signalled when it has written a checkpoint for the third time."""

    def arrange(file, number):
        left, write = [3], Checkpointer.write

        def writing(keeper, state):
            write(keeper, state)
            left[0] -= keeper.path == file
            if left == [0]:
                left[0] = -1
                signal.raise_signal(number)

        monkeypatch.setattr(Checkpointer, "write", writing)

    return arrange


@pytest.mark.usefixtures("other_cache")
def test_a_run_ended_in_every_way_ends_as_if_undisturbed(config, undisturbed, tmp_path, signal_at, remains, capsys):
    out = tmp_path / "run"
    command = ("run", "--config", config, "--out", out)
    status, _ = end_at(out / "teacher/seed-0/checkpoint.safetensors", signal.SIGKILL, *command)
    assert status == -signal.SIGKILL
    assert not (out / "teacher/seed-0/training.json").exists()

    status, error = end_at(out / "distilled/seed-0/pretraining-checkpoint.safetensors", signal.SIGTERM, *command)
    assert status == 143
    assert "teacher 0  goes on after step 3 of " in error
    assert "stopped by SIGTERM; language modelling 0 is kept as it was after step 3" in error
    assert f"To go on:\n  potstill run --config {config} --out {out}\n" in error
    assert "Traceback" not in error

    signal_at(out / "baseline/seed-0/checkpoint.safetensors", signal.SIGINT)
    capsys.readouterr()
    assert potstill(*command) == 130
    error = capsys.readouterr().err
    assert "finished before: teacher 0\n" in error
    assert "language modelling 0  goes on after step 3 of " in error
    assert "stopped by Ctrl-C; baseline 0 is kept as it was after step 3" in error

    assert potstill(*command) == 0
    error = capsys.readouterr().err
    assert f"going on in {out}\n" in error
    assert "finished before: teacher 0, distilled 0\n" in error
    assert "baseline 0  goes on after step 3 of " in error
    assert remains.differences(remains.contents(out), remains.contents(undisturbed)) == []
    remains.verify_all(out)


@pytest.mark.usefixtures("untrained")
def test_a_finished_run_is_shown_and_never_touched(config, undisturbed, capsys):
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    assert potstill("run", "--config", config, "--out", undisturbed) == 0
    printed = capsys.readouterr()
    assert f"{undisturbed} holds what this command makes, finished before" in printed.err
    assert "training time" in printed.out
    assert f"report: {undisturbed / 'report.md'}" in printed.out
    assert potstill("run", "--config", config, "--out", undisturbed, "--fresh") == 1
    assert "nothing is ever overwritten" in capsys.readouterr().err
    del before[undisturbed / "potstill.lock"]
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.fixture
def interrupted(undisturbed, tmp_path, monkeypatch):
    """A run under `runs`, of which the last model and all that follows is missing."""
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(undisturbed, tmp_path / "runs" / "tiny-20240401-120000")
    shutil.rmtree(run / "baseline")
    for name in ("summary.json", "report.md", "checksums.json", "predictions.csv"):
        (run / name).unlink()
    return run


def test_without_a_directory_the_interrupted_run_is_found(config, undisturbed, interrupted, capsys):
    assert potstill("run", "--config", config) == 0
    printed = capsys.readouterr()
    assert "going on in runs/tiny-20240401-120000, which was begun with the same settings; --fresh" in printed.err
    assert "report: runs/tiny-20240401-120000/report.md" in printed.out
    for name in ("baseline/seed-0/model.safetensors", "predictions.csv", "transfer/transfer.parquet"):
        assert (interrupted / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.fixture
def untrained(monkeypatch):
    """Return the directories that runs were made in, of which none does anything."""
    made = []

    def experiment(config, corpus, directory, command):
        made.append(directory)
        raise SystemExit(7)

    monkeypatch.setattr("potstill.pipeline._experiment", experiment)
    return made


@pytest.mark.parametrize("flags", [("--fresh",), ("--student-epochs", "5"), ("--limit", "60")], ids=str)
def test_anything_else_begins_anew(flags, config, interrupted, untrained):
    assert potstill("run", "--config", config, *flags) == 7
    assert untrained[0].parent.name == "runs"
    assert untrained[0].name != interrupted.name


def test_killed_before_its_seal_a_run_is_not_finished(config, undisturbed, remains, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    (run / "checksums.json").unlink()
    assert remains.differences(remains.contents(run), remains.contents(undisturbed)) == ["checksums.json"]
    assert potstill("run", "--config", config, "--out", run) == 0
    remains.verify_all(run)
    assert remains.differences(remains.contents(run), remains.contents(undisturbed)) == []


def test_other_settings_are_refused_by_their_names(config, interrupted, untrained, capsys):
    assert potstill("run", "--config", config, "--student-epochs", "5", "--out", interrupted) == 1
    assert "was begun with other settings: student.training.epochs; see" in capsys.readouterr().err
    assert untrained == []


def test_a_run_under_way_is_not_resumed(config, interrupted, untrained, capsys):
    with locked(interrupted):
        assert potstill("run", "--config", config, "--out", interrupted) == 1
        assert f"found one (process {os.getpid()})" in capsys.readouterr().err
        assert potstill("run", "--config", config) == 7
    assert untrained[0].name != interrupted.name


def test_another_environment_is_told(config, interrupted, monkeypatch, capsys):
    environment = json.loads((interrupted / "environment.json").read_text())
    (interrupted / "environment.json").write_text(json.dumps(environment | {"torch": "1.0"}))
    monkeypatch.setattr("potstill.pipeline._teacher", lambda *_: sys.exit(7))
    assert potstill("run", "--config", config) == 7
    assert "another environment (torch differ)" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["finetune", "train"])
def test_the_single_steps_go_on(command, config, tmp_path, signal_at, remains, capsys):
    arguments = (command, "--config", config, "--seeds", "0,1", "--epochs", "1", "--out")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert potstill(*arguments, whole) == 0
    for seed in ("seed-0", "seed-1"):
        signal_at(out / seed / "checkpoint.safetensors", signal.SIGINT)
        capsys.readouterr()
        assert potstill(*arguments, out) == 130
        expected = f"potstill {command} --config {config} --seeds 0,1 --epochs 1 --out {out}\n"
        assert expected in capsys.readouterr().err
    assert potstill(*arguments, out) == 0
    assert "finished before: " in capsys.readouterr().err
    assert remains.contents(out) == remains.contents(whole)
    assert potstill(*arguments, out) == 0
    assert f"{out} holds what this command makes, finished before" in capsys.readouterr().err
    assert remains.contents(out) == remains.contents(whole)


@pytest.mark.parametrize(
    ("command", "free", "counts"),
    [
        ("finetune", "student: {cell: rnn}\ntransfer: {sampled: 9}", "teacher: {echo: true}"),
        ("transfer", "student: {cell: rnn}\ndistillation: {teachers: average}", "transfer: {perturbed: 9}"),
        ("adapt", "student: {cell: rnn}", "transfer: {training: {epochs: 1}}"),
        ("train", "transfer: {sampled: 9}", "student: {cell: rnn}"),
        ("run", "search: {trials: 9}", "transfer: {perturbed: 9}"),
    ],
)
def test_sections_that_decide_nothing_may_change(command, free, counts, config, tmp_path, monkeypatch, capsys):
    """One file serves all commands: a teacher that was tuned for hours stays, whatever students are tried next."""
    for name in ("finetune", "side_by_side", "transfer_set", "_experiment"):
        monkeypatch.setattr(f"potstill.pipeline.{name}", lambda *_, **__: sys.exit(7))
    monkeypatch.setattr("potstill.transfer.adaptation.adapt", lambda *_: sys.exit(7))
    changed, out = tmp_path / "changed.yaml", tmp_path / "out"
    values = yaml.safe_load(config.read_text())

    def begin(more):
        sections = yaml.safe_load(more)
        changed.write_text(yaml.safe_dump(values | {name: values.get(name, {}) | sections[name] for name in sections}))
        return potstill(command, "--config", changed, "--out", out)

    assert begin("{}") == begin(free) == 7
    assert begin(counts) == 1
    assert "begun with other settings" in capsys.readouterr().err


def test_killed_before_its_checkpoint_was_removed_a_training_removes_it(config, tmp_path, capsys):
    arguments = ("train", "--config", config, "--epochs", "1", "--out", tmp_path / "out")
    assert potstill(*arguments) == 0
    left = tmp_path / "out" / "checkpoint.safetensors"
    left.write_bytes(b"")
    assert potstill(*arguments) == 0
    assert not left.exists()
    capsys.readouterr()
    assert potstill(*arguments) == 0
    assert "holds what this command makes, finished before" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "transfer"])
def test_what_transfer_files_hold_decides_too(command, config, untrained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("potstill.pipeline.transfer_set", lambda *_: sys.exit(7))
    more, out = tmp_path / "more.txt", tmp_path / "out"
    more.write_text("A cat sat.\n")
    arguments = (command, "--config", config, "--transfer-files", more, "--out", out)
    assert potstill(*arguments) == 7
    assert potstill(*arguments) == 7
    more.write_text("Another cat sat.\n")
    assert potstill(*arguments) == 1
    assert "was begun with other inputs, or what they hold has changed since: transfer files" in capsys.readouterr().err
    more.unlink()
    assert potstill(*arguments) == 1
    assert "expected a file of texts, found none" in capsys.readouterr().err


def test_distill_goes_on_with_the_same_teacher_alone(config, undisturbed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    teacher = undisturbed / "teacher/seed-0"
    arguments = ("distill", "--config", config, "--teacher", teacher)
    with monkeypatch.context() as patch:
        patch.setattr("potstill.pipeline.distill", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        assert potstill(*arguments) == 143
    (begun,) = (tmp_path / "runs").iterdir()
    assert f"--teacher {teacher} --out runs/{begun.name}" in capsys.readouterr().err
    other = tmp_path / "other"
    assert potstill("finetune", "--config", config, "--seeds", "1", "--epochs", "1", "--out", other) == 0
    again = ("distill", "--config", config, "--teacher", other, "--epochs", "1")
    assert potstill(*again, "--out", begun) == 1
    assert "begun with other settings" in capsys.readouterr().err
    assert potstill(*arguments) == 0
    assert capsys.readouterr().out == f"runs/{begun.name}\n"
    saved = yaml.safe_load((begun / "config.yaml").read_text())
    assert saved["student"]["seeds"] == [0]
