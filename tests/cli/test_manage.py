"""`potstill runs` and `potstill cache`: what they list, compare and delete."""

import json
import shutil

import pytest

import potstill
from commandline import potstill as command
from potstill.config import PotstillConfig
from potstill.experiment.run_directory import locked

pytestmark = pytest.mark.usefixtures("one_thread", "no_plots")


@pytest.fixture(scope="module")
def made(tiny_backbone, tmp_path_factory):
    """A directory with two finished runs, which differ in one setting, and one that has only begun."""
    place = tmp_path_factory.mktemp("runs") / "runs"
    for name, size in (("first", 4), ("second", 8)):
        config = PotstillConfig.build(
            {
                "data": {"source": "builtin", "max_train_examples": 60},
                "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 1}},
                "student": {"hidden_size": size, "embedding_size": 4, "vocab_size": 300, "seeds": [0]},
            }
        )
        potstill.run(config, place / name)
    (place / "begun").mkdir()
    shutil.copy(place / "first" / "state.json", place / "begun")
    return place


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_list_has_every_run_with_its_scores(runs, capsys):
    command("runs", "--json")
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"runs/first", "runs/second", "runs/begun"}
    assert rows["runs/begun"]["state"] == "interrupted"
    summary = json.loads((runs / "first" / "summary.json").read_text())
    first = rows["runs/first"]
    assert (first["state"], first["student"]) == ("finished", summary["recommended"])
    assert first["MCC"] == f"{summary['aggregate'][first['student']]['mcc']['mean']:.3f}"
    command("runs")
    assert "runs/second" in capsys.readouterr().out


def test_compared_runs_show_the_settings_that_differ(runs, capsys):
    command("runs", "runs/first", "runs/second")
    lines = capsys.readouterr().out.splitlines()
    (setting,) = [line for line in lines if "student.hidden_size" in line]
    assert setting.split() == ["student.hidden_size", "4", "8"]
    assert not any("student.embedding_size" in line for line in lines)


def test_damaged_run_is_listed_as_such(runs, capsys):
    with (runs / "first" / "summary.json").open("a") as file:
        file.write(" ")
    command("runs", "--json")
    states = {row["run"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states["runs/first"].startswith("damaged")
    assert states["runs/second"] == "finished"


def test_foreign_state_and_run_at_work_are_listed_as_such(runs, capsys):
    (runs / "foreign").mkdir()
    (runs / "foreign" / "state.json").write_text('{"version": 4}')
    with locked(runs / "begun"):
        command("runs", "--json")
    states = {row["run"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states["runs/begun"] == "running"
    assert states["runs/foreign"].startswith("damaged")
    assert states["runs/second"] == "finished"


def test_run_is_deleted_after_a_question(runs, monkeypatch, capsys):
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    assert command("runs", "--delete", "runs/first") != 0
    assert (runs / "first").is_dir()
    command("runs", "--delete", "--yes", "runs/first", runs / "first", "runs/begun")
    assert sorted(path.name for path in runs.iterdir()) == ["second"]
    assert "deleted 2 runs" in capsys.readouterr().out


def test_neither_other_directories_nor_runs_at_work_are_deleted(runs, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert command("runs", "--delete", "--yes", "runs/first", "mine") == 1
    assert "expected a run's directory" in capsys.readouterr().err
    with locked(runs / "second"):
        assert command("runs", "--delete", "--yes", "runs/first", "runs/second") == 1
    assert "a process is working there" in capsys.readouterr().err
    assert (runs / "first").is_dir()
    assert (runs / "second").is_dir()
    assert (tmp_path / "mine").is_dir()
    assert command("runs", "--delete") == 2


def test_without_runs_the_list_says_how_to_make_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command("runs")
    assert "`potstill run FILE` makes one" in capsys.readouterr().out


def test_cache_is_shown_and_cleared_by_kind(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    command("cache")
    assert str(tmp_path / "cache") in capsys.readouterr().out
    for kind in ("logits", "tokens"):
        (tmp_path / "cache" / kind).mkdir(parents=True)
        (tmp_path / "cache" / kind / "key").write_bytes(b"0" * 2_000_000)
    command("cache")
    assert capsys.readouterr().out.count("2.0 MB") == 2
    command("cache", "--clear", "logits")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tokens"]
    (tmp_path / "cache" / "answers").mkdir()  # may have cost money
    command("cache", "--clear")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["answers"]
    command("cache", "--clear", "answers")
    assert not list((tmp_path / "cache").iterdir())
    assert command("cache", "nothing") == 1
    assert "the cache is empty" in capsys.readouterr().err
