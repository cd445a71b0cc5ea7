"""The directory of a command: begun, found again, refused, locked against a second process."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from potstill.config import PotstillConfig
from potstill.errors import ArtifactError, ConfigError, SourceError
from potstill.executor.signals import Stopped
from potstill.experiment.run_directory import BusyError, RunSpec, locked, new_run_directory, run_directory

HOLD = """
import sys, time
from pathlib import Path
from potstill.experiment.run_directory import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def in_its_own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(seed=0, command="train", texts="abc", **runtime):
    config = PotstillConfig.build({"student": {"seeds": [seed]}, "runtime": runtime})
    return RunSpec(command, "data", config, {"texts": texts}, lambda directory: (directory / "done").exists())


def begin(work, out=None, **options):
    with run_directory(work, out, **options) as directory:
        return directory


def test_second_process_is_refused_and_told_the_firsts_number_until_that_is_dead(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            refused = f"no other process at work there, found one .process {process.pid}."
            for _ in range(2):  # the attempt itself does not wipe the number out
                with pytest.raises(BusyError, match=refused):
                    begin(make(), tmp_path)
        finally:
            process.kill()
    assert (tmp_path / "potstill.lock").read_text().strip() == str(process.pid)
    with locked(tmp_path):
        assert (tmp_path / "potstill.lock").read_text().strip() == str(os.getpid())


def test_second_lock_in_one_process_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(BusyError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_new_directory_is_made(tmp_path):
    first = begin(make(), tmp_path / "a" / "b")
    assert {path.name for path in first.iterdir()} == {
        *("state.json", "config.yaml", "environment.json", "potstill.lock")
    }
    unnamed = begin(make())
    assert unnamed.parent.name == "runs"
    assert unnamed.name.startswith("data-")


def test_same_run_is_resumed(tmp_path, capsys):
    named, unnamed = begin(make(), tmp_path / "out"), begin(make())
    capsys.readouterr()
    assert begin(make(), tmp_path / "out") == named
    assert f"going on in {named}" in capsys.readouterr().err
    assert begin(make()) == unnamed
    assert "--restart begins anew" in capsys.readouterr().err
    assert begin(make(), restart=True) != unnamed


def test_checkpoint_seconds_may_change():
    unnamed = begin(make(checkpoint_seconds=5.0))
    assert begin(make(checkpoint_seconds=None)) == unnamed
    assert begin(make(), unnamed) == unnamed


@pytest.mark.parametrize("free", ["student", "student.seeds"])
def test_free_settings_may_change(tmp_path, free):
    first, other = (replace(make(seed), free=(free,)) for seed in (0, 1))
    assert begin(other, begin(first, tmp_path / "out")) == tmp_path / "out"
    assert PotstillConfig.load(tmp_path / "out" / "config.yaml") == other.config
    alike = replace(make(), free=("student.seed", "stud"))
    with pytest.raises(ArtifactError, match=r"student\.seeds"):
        begin(replace(make(1), free=alike.free), begin(alike, tmp_path / "alike"))


def named(**names):
    sections = {name: {key: str(value) for key, value in values.items()} for name, values in names.items()}
    return RunSpec("train", "data", PotstillConfig.build(sections), {"texts": "abc"}, lambda _: False)


def test_a_directory_by_any_of_its_names_is_the_same(tmp_path):
    for directory in ("model", "other"):
        (tmp_path / directory).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    begun = begin(named(teacher={"backbone": "model"}))
    for same in (tmp_path / "model", "./model", "other/../model", "link"):
        assert begin(named(teacher={"backbone": same})) == begun
        assert begin(named(teacher={"backbone": same}), begun) == begun
    with pytest.raises(ArtifactError, match=r"teacher\.backbone\n"):
        begin(named(teacher={"backbone": "other"}), begun)


def test_a_relative_name_means_what_it_meant_where_the_run_was_begun(tmp_path, monkeypatch):
    for place in ("a", "b"):
        (tmp_path / place / "models" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    begun = begin(named(teacher={"backbone": "models/x"}), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "b")
    assert begin(named(teacher={"backbone": tmp_path / "a" / "models" / "x"}), begun) == begun
    with pytest.raises(ArtifactError, match=r"teacher\.backbone\n"):
        begin(named(teacher={"backbone": "models/x"}), begun)


def test_data_is_the_same_by_its_content(tmp_path):
    files = {"source": "tickets.csv", "test": "test.csv", "validation": "validation.csv"}
    begun = begin(named(data=files))
    assert begin(named(data={name: tmp_path / file for name, file in files.items()}), begun) == begun
    with pytest.raises(ArtifactError, match=r"inputs\.texts"):
        begin(replace(named(data={"source": "tickets.csv"}), inputs={"texts": "other"}), begun)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (make(seed=1), "student.seeds"),
        (make(texts="xyz"), "inputs.texts"),
        (make(command="distill"), "command"),
        (make(precision="32-true"), "runtime.precision"),
    ],
    ids=["settings", "data", "command", "precision"],
)
def test_other_run_is_refused_and_not_resumed(tmp_path, other, named):
    begun = begin(make(), tmp_path / "out")
    with pytest.raises(ArtifactError, match=f"was begun with other settings or inputs: {named}\n"):
        begin(other, begun)
    unnamed = begin(make())
    assert begin(other) != unnamed


@pytest.mark.parametrize("error", [ConfigError(["a mistake"]), SourceError("not there")])
def test_early_error_leaves_nothing(tmp_path, error):
    def fail(out, *done):
        with run_directory(make(), out) as directory:
            for name in done:
                (directory / name).touch()
            raise error

    out, other = tmp_path / "out", tmp_path / "other"
    for place, done in ((out, ()), (None, ()), (other, ("history.jsonl",))):
        with pytest.raises(type(error)):
            fail(place, *done)
    assert begin(make(seed=1), out) == out
    assert not list((tmp_path / "runs").iterdir())
    with pytest.raises(ArtifactError, match="begun with other settings"):
        begin(make(seed=1), other)


def test_altered_configuration_is_written_again(tmp_path):
    """What decides the result is in state.json; config.yaml is for people and for other commands."""
    begun, other = begin(make(), tmp_path / "out"), make(seed=1)
    other.config.save(begun / "config.yaml")
    assert begin(make(), begun) == begun
    assert PotstillConfig.load(begun / "config.yaml") == make().config
    with pytest.raises(ArtifactError, match=r"begun with other settings or inputs: student\.seeds"):
        begin(other, begun)


def test_run_of_another_version_is_refused(tmp_path):
    begun = begin(make(), tmp_path / "out")
    (begun / "state.json").write_text('{"format": 1}')
    with pytest.raises(ArtifactError, match="begun with other settings or inputs: format, "):
        begin(make(), begun)


def test_other_environment_is_warned_of_and_recorded(tmp_path, monkeypatch, capsys):
    out = begin(make(), tmp_path / "out")
    first = json.loads((out / "environment.json").read_text())
    assert {"torch", "threads", "device", "precision"} <= first.keys()
    begin(make(), out)
    assert "another environment" not in capsys.readouterr().err
    described = {name: value for name, value in first.items() if name not in ("device", "precision")}
    for threads in (77, 77, 78):
        monkeypatch.setattr(
            "potstill.experiment.run_directory.describe_environment", lambda n=threads: described | {"threads": n}
        )
        begin(make(), out)
    assert capsys.readouterr().err.count("another environment (threads differ)") == 2
    noted = json.loads((out / "environment.json").read_text())
    assert noted == first | {"later": [{"threads": 77}, {"threads": 78}]}


def test_finished_run_is_named_and_not_changed(tmp_path, monkeypatch, capsys):
    named, unnamed = begin(make(), tmp_path / "out"), begin(make())
    for directory in (named, unnamed):
        (directory / "done").touch()
    environment = (named / "environment.json").read_bytes()
    monkeypatch.setattr("potstill.experiment.run_directory.describe_environment", lambda: {"threads": 77})
    assert begin(make(), named) == named
    assert "finished before" in capsys.readouterr().err
    assert (named / "environment.json").read_bytes() == environment
    with pytest.raises(ArtifactError, match=r"was begun with other settings or inputs: student\.seeds"):
        begin(make(seed=1), named)
    with pytest.raises(ArtifactError, match="nothing is ever overwritten"):
        begin(make(), named, restart=True)
    assert begin(make()) != unnamed


def test_directory_of_something_else_is_not_changed(tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(ArtifactError, match="nothing is ever overwritten"):
        begin(make(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_newest_unlocked_run_is_resumed():
    older, newer = begin(make()), begin(make(), restart=True)
    os.utime(older / "state.json", (1, 1))
    assert begin(make()) == newer
    with locked(newer):
        assert begin(make()) == older
        with locked(older):
            assert begin(make()) not in (older, newer)


def test_run_with_damaged_state_is_not_resumed():
    first = begin(make())
    (first / "state.json").write_text("{")
    assert begin(make()) != first
    with pytest.raises(ArtifactError, match=r"state\.json is not readable"):
        begin(make(), first)


@pytest.mark.parametrize("left", ["potstill.lock", ".state.json.ab12cd_9"])
def test_kill_before_the_state_was_written(tmp_path, left):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / left).write_text("")
    assert begin(make(), tmp_path / "out") == tmp_path / "out"


def test_kill_after_the_state_was_written(tmp_path):
    out = begin(make(), tmp_path / "out")
    for later in ("config.yaml", "environment.json"):
        (out / later).unlink()
    assert begin(make(), out) == out
    assert PotstillConfig.load(out / "config.yaml") == make().config


def test_incomplete_files_are_removed_on_resumption(tmp_path):
    out = begin(make(), tmp_path / "out")
    (out / "teacher").mkdir()
    for name in (".checkpoint.safetensors.ab12cd_9", ".tmpGIw0DQ", ".gitignore", "model.onnx", ".hidden.file"):
        (out / "teacher" / name).write_text("")
    begin(make(), out)
    assert {path.name for path in (out / "teacher").iterdir()} == {".gitignore", "model.onnx", ".hidden.file"}


def test_signal_names_the_directory_to_resume(tmp_path):
    with pytest.raises(Stopped) as caught, run_directory(make(), tmp_path / "out"):
        raise Stopped(signal.SIGTERM)
    assert caught.value.directory == tmp_path / "out"
    with locked(tmp_path / "out"):
        pass


def test_run_of_another_name_is_not_resumed():
    first = begin(make())
    assert begin(replace(make(), name="dat")) != first


def test_run_never_overwrites_another(tmp_path):
    assert new_run_directory(tmp_path / "a" / "run", "name").is_dir()
    assert new_run_directory(tmp_path / "a" / "run", "name").is_dir()  # still empty
    (tmp_path / "a" / "run" / "file").touch()
    for taken in ("run", "run/file"):
        with pytest.raises(ArtifactError, match="name another directory"):
            new_run_directory(tmp_path / "a" / taken, "name")


def test_runs_of_one_second_have_different_names(monkeypatch):
    monkeypatch.setattr("time.strftime", lambda template: "20240401-120000")
    names = [new_run_directory(None, "cola").name for _ in range(3)]
    assert names == ["cola-20240401-120000", "cola-20240401-120000-2", "cola-20240401-120000-3"]
