import csv
import errno
import os
import stat
from pathlib import Path

import pytest

from potstill.errors import ArtifactError
from potstill.store import atomic
from potstill.store.atomic import (
    ensure_replaceable,
    parse_json,
    read_json,
    write_atomically,
    write_csv,
    write_directory_atomically,
    write_json,
    write_text,
)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "new" / "file"
    write_atomically(target, lambda path: path.write_text("old"))

    def fail(path):
        path.write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_atomically(target, fail)
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_refused_write_is_reported_and_the_old_file_is_unchanged(tmp_path, monkeypatch, call, number):
    write_text(tmp_path / "file", "old")
    path = tmp_path / "new" / "file" if call == "mkdir" else tmp_path / "file"

    def refused(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refused)
        with pytest.raises(ArtifactError, match=rf"{path} can't be written: {os.strerror(number)}\n.*make room"):
            write_text(path, "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_content_is_synced_before_the_rename_and_the_name_after_it(tmp_path, monkeypatch):
    done = []
    sync, replace = atomic.sync, Path.replace
    monkeypatch.setattr(atomic, "sync", lambda path: sync(path) or done.append(path.is_dir()))
    monkeypatch.setattr(Path, "replace", lambda self, target: done.append("rename") or replace(self, target))
    write_text(tmp_path / "file", "text")
    assert done == [False, "rename", True]


def test_a_directory_is_synced_with_all_its_files(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(atomic, "sync", lambda path: synced.append(path.name))

    def fill(place):
        (place / "in").mkdir()
        (place / "in" / "file").touch()

    write_directory_atomically(tmp_path / "new", fill)
    assert {*synced[:2]} == {"in", "file"}
    assert synced[2].startswith(".new.")
    assert synced[3:] == [tmp_path.name]


def test_a_directory_that_appears_meanwhile_is_kept_and_reported(tmp_path):
    with pytest.raises(ArtifactError, match="new was made by another process meanwhile"):
        write_directory_atomically(tmp_path / "new", lambda _: (tmp_path / "new").mkdir())
    assert [one.name for one in tmp_path.iterdir()] == ["new"]


def test_ensure_replaceable_refuses_a_directory_that_has_to_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (Path(), tmp_path):
        with pytest.raises(ArtifactError, match=r"can't be replaced .* working directory\n.* name a new directory"):
            ensure_replaceable(place)
    assert tmp_path.is_dir()

    def is_a_mounted_volume(self):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "rmdir", is_a_mounted_volume)
    with pytest.raises(ArtifactError, match="can't be replaced"):
        ensure_replaceable(tmp_path / "volume")


def test_json_and_csv_are_read_back(tmp_path):
    value = {"name": "naïve", "numbers": [1, 2.5, None], "nested": {"yes": True}}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value
    write_csv(tmp_path / "file.csv", [["a", "two\nlines"], ["ä", 'b"']])
    with (tmp_path / "file.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["a", "two\nlines"], ["ä", 'b"']]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"3", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000])
def test_content_that_is_no_json_object_is_refused_by_name(content):
    with pytest.raises(ArtifactError, match=r"somewhere.*(not readable as JSON|expected a JSON object)"):
        parse_json(content, Path("somewhere"))


def test_a_missing_file_and_a_directory_in_its_place_are_reported(tmp_path):
    with pytest.raises(ArtifactError, match="nowhere is not readable"):
        read_json(tmp_path / "nowhere")
    (tmp_path / "file").mkdir()
    with pytest.raises(ArtifactError, match="file is not readable"):
        read_json(tmp_path / "file")
    with pytest.raises(ArtifactError, match="file can't be written"):
        write_json(tmp_path / "file", {})
    assert not list((tmp_path / "file").iterdir())
