"""`potstill search` as a user calls it: killed, interrupted, resumed, and its best configuration used."""

import csv
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yaml

from commandline import potstill
from potstill.config import PotstillConfig

TINY = """
data: {{source: {data}}}
teacher: {{backbone: {backbone}, training: {{epochs: 1}}}}
student:
  {{embedding_size: 8, hidden_size: 8, vocab_size: 300, training: {{epochs: 2, learning_rate: 0.03}}, seeds: [0]}}
search:
  trials: 4
  space:
    student.training.learning_rate: {{low: 0.01, high: 0.1, log: true}}
    student.embedding_size: 8
    student.hidden_size: {{choices: [4, 8]}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_backbone):
    directory = tmp_path_factory.mktemp("config")
    rows = [f"w{i % 7} {('good', 'bad')[i % 2]} w{i % 5},{('yes', 'no')[i % 2]}" for i in range(60)]
    (directory / "rated.csv").write_text("\n".join(["text,label", *rows]))
    file = directory / "tiny.yaml"
    file.write_text(TINY.format(data=directory / "rated.csv", backbone=tiny_backbone))
    return file


@pytest.fixture(scope="module")
def teacher(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("teachers") / "teacher"
    assert potstill("finetune", "--config", tiny, "--out", out) == 0
    return out


@pytest.fixture
def untrained(monkeypatch):
    """Leave the training out: every student scores the same."""
    trained = SimpleNamespace(fit=SimpleNamespace(best={"mcc": 0.5}), record=SimpleNamespace(parameters=None))
    monkeypatch.setattr("potstill.experiment.search.distill", lambda *arguments, **options: trained)


def trials_of(directory):
    with (directory / "trials.csv").open(encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def finished_trials(database):
    """Look into a study that another process writes."""
    if not database.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0]
    except sqlite3.OperationalError:  # its tables are not there yet
        return 0


def test_killed_search_resumes_to_the_same_trials(tiny, teacher, tmp_path, capsys):
    command = ("search", "--config", tiny, "--teacher", teacher, "--out")
    assert potstill(*command, tmp_path / "uninterrupted") == 0
    python = (sys.executable, "-c", "from potstill.cli import main; main()")
    with subprocess.Popen([*python, *map(str, command), tmp_path / "killed"]) as process:
        while finished_trials(tmp_path / "killed" / "search.db") < 1:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "trials.csv").exists()
    capsys.readouterr()
    assert potstill(*command, tmp_path / "killed") == 0
    assert "of 4 trials are done; going on" in capsys.readouterr().err
    assert trials_of(tmp_path / "killed") == trials_of(tmp_path / "uninterrupted")
    assert not list((tmp_path / "killed").glob(".trial-*"))


def test_distill_takes_the_best_configuration(tiny, teacher, tmp_path, capsys):
    out, student = tmp_path / "search", tmp_path / "student"
    assert potstill("search", "--config", tiny, "--teacher", teacher, "--out", out, "--trials", "3") == 0
    assert capsys.readouterr().out == f"report: {out / 'search.md'}\n"
    best = max(float(row["mcc"]) for row in trials_of(out))
    assert potstill("distill", "--config", out / "best.yaml", "--teacher", teacher, "--out", student) == 0
    assert yaml.safe_load((student / "training.json").read_text())["best"]["mcc"] == best
    assert PotstillConfig.load(student / "config.yaml") == PotstillConfig.load(out / "best.yaml")


@pytest.mark.usefixtures("untrained")
def test_ignored_section_augment_is_reported(tiny, teacher, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(f"{tiny.read_text()}\naugment: {{perturbed: 9}}")
    command = ("search", "--teacher", teacher, "--trials", "1")
    for config, is_reported in ((file, True), (tiny, False)):
        assert potstill(*command, "--config", config, "--out", tmp_path / str(is_reported)) == 0
        assert ("the section augment is ignored" in capsys.readouterr().err) == is_reported


def test_interrupted_search_names_the_command_that_resumes(tiny, teacher, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("potstill.experiment.search.distill", interrupted)
    arguments = ["search", "--config", str(tiny), "--teacher", str(teacher)]
    monkeypatch.setattr(sys, "argv", ["potstill", *arguments])
    assert potstill(*arguments) == 130
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.startswith("rated-search-")
    assert f"potstill search --config {tiny} --teacher {teacher} --out runs/{out.name}" in error
    assert potstill(*arguments) == 130
    assert f"going on in runs/{out.name}" in capsys.readouterr().err
    assert potstill(*arguments, "--trials", "9") == 130  # more trials are no other search
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [out.name]
    for other in (("--restart",), ("--alpha", "0.1")):
        assert potstill(*arguments, *other) == 130
    assert len(list((tmp_path / "runs").iterdir())) == 3


@pytest.mark.usefixtures("untrained")
def test_flag_fixes_its_setting(tiny, teacher, tmp_path):
    flags = ("--dropout", "0.3", "--alpha", "0.25", "--trials", "2")
    assert potstill("search", "--config", tiny, "--teacher", teacher, "--out", tmp_path / "out", *flags) == 0
    rows = trials_of(tmp_path / "out")
    assert {row["student.dropout"] for row in rows} == {"0.3"}
    assert {row["distillation.alpha"] for row in rows} == {"0.25"}
    assert len({row["distillation.temperature"] for row in rows}) == 2
    space = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["search"]["space"]
    assert space["student.dropout"] == 0.3


def test_mistakes_are_reported_before_anything_is_written(tiny, teacher, tmp_path, capsys):
    file = tmp_path / "bad.yaml"
    file.write_text(tiny.read_text() + "    student.hiden_size: 4\n    student.dropout: 1.5\n")
    assert potstill("search", "--config", file, "--teacher", teacher, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert (
        "student.hiden_size: a search tries the numbers, switches and choices of student and distillation; this is none"
        in error
    )
    assert "search.space.student.dropout: expected a number below 1" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("untrained")
def test_other_settings_in_the_directory_are_refused(tiny, teacher, tmp_path, capsys):
    command = ("search", "--config", tiny, "--teacher", teacher, "--out", tmp_path / "out", "--trials", "2")
    assert potstill(*command) == 0
    assert potstill(*command, "--cell", "gru") == 1
    assert "begun with other settings or inputs: student.cell\n" in capsys.readouterr().err
    other = shutil.copytree(tmp_path / "out", tmp_path / "copy")
    assert potstill(*command[:-3], other, "--trials", "3") == 0
    assert len(trials_of(other)) == 3
