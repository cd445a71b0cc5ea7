"""`potstill predict` on several files, into a directory, by one process and by several."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commandline import potstill, train_small

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "another", "dog"]
TEXTS = [f"{WORDS[i % 10]} {WORDS[i % 7]} {WORDS[i % 3]} {i}" for i in range(5000)]  # of more than one chunk


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    rows = [f"{WORDS[i % 10]} {WORDS[i % 7]},{'yes' if i % 2 else 'no'}" for i in range(40)]
    return train_small(tmp_path_factory.mktemp("student"), ["text,label", *rows])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind, one with a broken line, and one without any."""
    directory = tmp_path_factory.mktemp("files")
    (directory / "a.txt").write_text("\n".join(TEXTS))
    (directory / "b.csv").write_text("id,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(TEXTS[:50])))
    pq.write_table(pa.table({"text": TEXTS[:70], "n": range(70)}), directory / "c.parquet")
    (directory / "d.jsonl").write_text('{"text": "the cat"}\n{\n{"text": "the dog"}\n')
    (directory / "e.jsonl").touch()
    return directory


ANSWERS = {"a.txt": "a.txt.jsonl", "b.csv": "b.csv.jsonl", "c.parquet": "c.parquet.jsonl"}
ANSWERS |= dict.fromkeys(["d.jsonl"], "d.jsonl") | dict.fromkeys(["e.jsonl"], "e.jsonl")


@pytest.fixture(scope="module")
def expected(student, files, tmp_path_factory):
    """The answers to each file alone, by one process."""
    out = tmp_path_factory.mktemp("expected")
    for name, answers in ANSWERS.items():
        assert potstill("predict", student, files / name, "--out", out / answers) == (3 if name == "d.jsonl" else 0)
    return contents(out)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "predict.json"}


@pytest.mark.parametrize("workers", [1, 2])
def test_files_are_answered_into_a_directory_as_each_alone(student, files, expected, tmp_path, capsys, workers):
    arguments = ("predict", student, files / "*.jsonl", files / "[a-c].*", files / "a.txt")
    assert potstill(*arguments, "--out", tmp_path / "out", "--workers", workers) == 3
    assert contents(tmp_path / "out") == expected
    if workers == 1:  # else workers write to standard error themselves
        assert f"{files / 'd.jsonl'}:2: expected JSON" in capsys.readouterr().err


def test_done_files_are_not_answered_again_and_more_are_added(student, files, expected, tmp_path, capsys):
    out = tmp_path / "out"
    assert potstill("predict", student, files / "a.txt", files / "b.csv", "--out", out) == 0
    before = (out / "a.txt.jsonl").stat().st_mtime_ns
    (out / "b.csv.jsonl").unlink()
    capsys.readouterr()
    assert potstill("predict", student, files / "[a-c].*", "--out", out) == 0
    assert "1 of 3 files answered before" in capsys.readouterr().err
    assert (out / "a.txt.jsonl").stat().st_mtime_ns == before
    assert contents(out) == {name: expected[name] for name in list(ANSWERS.values())[:3]}
    assert potstill("predict", student, files / "[a-c].*", "--out", out) == 0
    assert "3 of 3 files answered before" in capsys.readouterr().err


def test_bad_input_is_refused_before_anything_is_written(student, files, tmp_path, capsys):
    out, full = tmp_path / "out", tmp_path / "full"
    (tmp_path / "a.txt").write_text("the cat")
    full.mkdir()
    (full / "precious").touch()
    a, b = files / "a.txt", files / "b.csv"
    for arguments, status, message in (
        ((a, b), 2, "several FILEs need a directory as --out"),
        ((a, "-", "--out", out), 2, "none of them can be standard input"),
        ((a, tmp_path / "a.txt", "--out", out), 1, "expected files of different names"),
        ((a, b, "--out", full), 1, f"{full} exists and is not empty"),
        ((a, b, "--out", tmp_path / "a.txt"), 1, "a.txt exists and is not empty"),
        ((a, tmp_path / "*.csv", "--out", out), 2, "*.csv': no such file"),
        ((a, tmp_path, "--out", out), 2, "no such file; for the files of a directory, give"),
    ):
        assert potstill("predict", student, *arguments) == status
        assert message in capsys.readouterr().err
        assert not out.exists()
    assert [path.name for path in full.iterdir()] == ["precious"]


def test_another_task_or_changed_files_are_refused(student, tmp_path, capsys):
    file, out = tmp_path / "texts.txt", tmp_path / "out"
    file.write_text("the cat")
    assert potstill("predict", student, file, "--out", f"{out}/") == 0
    assert potstill("predict", student, file, "--out", out, "--probabilities") == 1
    assert f"{out} holds answers to another task: model" in capsys.readouterr().err
    file.write_text("the dog")  # as long as before
    assert potstill("predict", student, file, "--out", out) == 1
    assert f"another file than {file}, or that one has changed" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker in /proc")
def test_the_file_of_a_killed_worker_is_answered_when_the_command_is_repeated(
    student, files, expected, tmp_path, capsys
):
    """One worker waits for the rest of a pipe, of which a chunk is answered, when it is killed."""
    pipe, out = tmp_path / "a.txt", tmp_path / "out"
    os.mkfifo(pipe)

    def kill():
        note, deadline = out / "a.txt.jsonl.part.json", time.monotonic() + 60
        with pipe.open("wb", buffering=0) as end:
            end.write((files / "a.txt").read_bytes())
            while time.monotonic() < deadline and not (note.exists() and json.loads(note.read_text())["answered"]):
                time.sleep(0.02)
            os.kill(next(process for process in readers(pipe) if process != os.getpid()), signal.SIGKILL)

    arguments = ("predict", student, pipe, files / "b.csv", "--out", out, "--workers", 2)
    for write, status in ((kill, 1), (lambda: pipe.write_bytes((files / "a.txt").read_bytes()), 0)):
        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        assert potstill(*arguments) == status
        thread.join(60)
    assert "error: a worker was killed" in capsys.readouterr().err
    assert contents(out) == {name: expected[name] for name in ("a.txt.jsonl", "b.csv.jsonl")}


def readers(pipe):
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == pipe:
                yield int(descriptor.parts[2])
        except OSError:  # it is closed, or another user's
            continue


def test_workers_import_neither_torch_nor_what_else_prediction_does_without():
    code = """
import sys
from potstill.executor import make_executor

def loaded(_):
    import potstill.cli.answering
    return {"torch", "rich", "pydantic"} & sys.modules.keys()

print(*make_executor("local", 2).map(loaded, range(2)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set() set()\n"
