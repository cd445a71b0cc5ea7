"""The directory of a command: begun, found again, refused, locked against a second process."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from potstill.config import PotstillConfig
from potstill.directories import BusyError, Work, locked, working_directory
from potstill.errors import ArtifactError, ConfigError, SourceError
from potstill.interruption import Stopped

HOLD = """
import sys, time
from pathlib import Path
from potstill.directories import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def in_its_own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(seed=0, command="train", texts="abc", **runtime):
    config = PotstillConfig.build({"student": {"seeds": [seed]}, "runtime": runtime})
    return Work(command, "data", config, {"texts": texts}, lambda directory: (directory / "done").exists())


def begin(work, out=None, **options):
    with working_directory(work, out, **options) as directory:
        return directory


@pytest.fixture
def holder(tmp_path):
    """Return a directory, and another process that holds its lock."""
    directory = tmp_path / "held"
    directory.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, directory], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield directory, process
        finally:
            process.kill()


def test_the_second_process_is_refused_by_the_firsts_number(holder):
    directory, process = holder
    for _ in range(2):  # the attempt itself does not wipe the number out
        with pytest.raises(BusyError, match=f"no other process at work there, found one .process {process.pid}."):
            begin(make(), directory)


def test_a_dead_process_holds_no_lock(holder):
    directory, process = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (directory / "potstill.lock").read_text().strip() == str(process.pid)
    with locked(directory):
        assert (directory / "potstill.lock").read_text().strip() == str(os.getpid())


def test_two_in_one_process_are_refused_too(tmp_path):
    with locked(tmp_path), pytest.raises(BusyError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_where_nothing_was_begun_a_new_one_is_made(tmp_path):
    first = begin(make(), tmp_path / "a" / "b")
    assert {path.name for path in first.iterdir()} == {
        *("begun.json", "config.yaml", "environment.json", "potstill.lock")
    }
    unnamed = begin(make())
    assert unnamed.parent.name == "runs"
    assert unnamed.name.startswith("data-")


def test_the_same_work_goes_on(tmp_path, capsys):
    named, unnamed = begin(make(), tmp_path / "out"), begin(make())
    capsys.readouterr()
    assert begin(make(), tmp_path / "out") == named
    assert f"going on in {named}" in capsys.readouterr().err
    assert begin(make()) == unnamed
    assert "--fresh begins anew" in capsys.readouterr().err
    assert begin(make(), fresh=True) != unnamed


def test_how_often_a_checkpoint_is_written_is_no_other_work():
    unnamed = begin(make(checkpoint_seconds=5.0))
    assert begin(make(checkpoint_seconds=None)) == unnamed
    assert begin(make(), unnamed) == unnamed


@pytest.mark.parametrize("free", ["student", "student.seeds"])
def test_what_decides_nothing_may_change(tmp_path, free):
    first, other = (replace(make(seed), free=(free,)) for seed in (0, 1))
    assert begin(other, begin(first, tmp_path / "out")) == tmp_path / "out"
    assert PotstillConfig.load(tmp_path / "out" / "config.yaml") == other.config
    alike = replace(make(), free=("student.seed", "stud"))
    with pytest.raises(ArtifactError, match=r"student\.seeds"):
        begin(replace(make(1), free=alike.free), begin(alike, tmp_path / "alike"))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (make(seed=1), "settings: student.seeds; see"),
        (make(texts="xyz"), "inputs, or what they hold has changed since: texts"),
        (make(command="distill"), "settings: the command, `potstill train`; see"),
        (make(precision="32-true"), "settings: runtime.precision; see"),
    ],
    ids=["settings", "data", "command", "precision"],
)
def test_other_work_is_refused_and_not_resumed(tmp_path, other, named):
    begun = begin(make(), tmp_path / "out")
    with pytest.raises(ArtifactError, match=f"was begun with other {named}"):
        begin(other, begun)
    unnamed = begin(make())
    assert begin(other) != unnamed


@pytest.mark.parametrize("error", [ConfigError(["a mistake"]), SourceError("not there")])
def test_a_mistake_before_anything_was_done_leaves_nothing(tmp_path, error):
    def fail(out, *done):
        with working_directory(make(), out) as directory:
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


def test_a_configuration_that_was_altered_is_refused(tmp_path):
    begun, other = begin(make(), tmp_path / "out"), make(seed=1)
    other.config.save(begun / "config.yaml")
    with pytest.raises(ArtifactError, match=r"begun with other settings than .*config\.yaml holds by now"):
        begin(other, begun)


def test_another_environment_is_told_and_noted_below_the_first(tmp_path, monkeypatch, capsys):
    out = begin(make(), tmp_path / "out")
    first = json.loads((out / "environment.json").read_text())
    assert {"torch", "threads", "device", "precision"} <= first.keys()
    begin(make(), out)
    assert "another environment" not in capsys.readouterr().err
    described = {name: value for name, value in first.items() if name not in ("device", "precision")}
    for threads in (77, 77, 78):
        monkeypatch.setattr("potstill.directories.describe_environment", lambda n=threads: described | {"threads": n})
        begin(make(), out)
    assert capsys.readouterr().err.count("another environment (threads differ)") == 2
    noted = json.loads((out / "environment.json").read_text())
    assert noted == first | {"later": [{"threads": 77}, {"threads": 78}]}


def test_what_is_finished_is_named_and_never_touched(tmp_path, monkeypatch, capsys):
    named, unnamed = begin(make(), tmp_path / "out"), begin(make())
    for directory in (named, unnamed):
        (directory / "done").touch()
    environment = (named / "environment.json").read_bytes()
    monkeypatch.setattr("potstill.directories.describe_environment", lambda: {"threads": 77})
    assert begin(make(), named) == named
    assert "finished before" in capsys.readouterr().err
    assert (named / "environment.json").read_bytes() == environment
    with pytest.raises(ArtifactError, match=r"was begun with other settings: student\.seeds"):
        begin(make(seed=1), named)
    with pytest.raises(ArtifactError, match="nothing is ever overwritten"):
        begin(make(), named, fresh=True)
    assert begin(make()) != unnamed


def test_what_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(ArtifactError, match="nothing is ever overwritten"):
        begin(make(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_the_newest_that_nobody_works_in():
    older, newer = begin(make()), begin(make(), fresh=True)
    os.utime(older / "begun.json", (1, 1))
    assert begin(make()) == newer
    with locked(newer):
        assert begin(make()) == older
        with locked(older):
            assert begin(make()) not in (older, newer)


def test_a_damaged_beginning_is_passed_over():
    first = begin(make())
    (first / "begun.json").write_text("{")
    assert begin(make()) != first
    with pytest.raises(ArtifactError, match=r"begun\.json is not readable"):
        begin(make(), first)


def test_a_kill_while_it_was_begun_is_no_obstacle(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for left in ("potstill.lock", "begun.json", ".config.yaml.ab12cd_9"):
        (out / left).write_text("")
        assert begin(make(), out) == out
        for later in ("config.yaml", "environment.json"):
            (out / later).unlink()


def test_incomplete_files_are_removed_when_it_goes_on(tmp_path):
    out = begin(make(), tmp_path / "out")
    (out / "teacher").mkdir()
    for name in (".checkpoint.safetensors.ab12cd_9", ".tmpGIw0DQ", ".gitignore", "model.onnx", ".hidden.file"):
        (out / "teacher" / name).write_text("")
    begin(make(), out)
    assert {path.name for path in (out / "teacher").iterdir()} == {".gitignore", "model.onnx", ".hidden.file"}


def test_who_is_stopped_knows_where_to_go_on(tmp_path):
    with pytest.raises(Stopped) as caught, working_directory(make(), tmp_path / "out"):
        raise Stopped(signal.SIGTERM)
    assert caught.value.directory == tmp_path / "out"
    with locked(tmp_path / "out"):
        pass


def test_another_task_is_another_work():
    first = begin(make())
    assert begin(replace(make(), name="dat")) != first
