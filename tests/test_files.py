import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from potstill import artifacts, files
from potstill.artifacts import (
    mapped_array,
    read_arrays,
    vacate,
    write_arrays,
    write_directory_atomically,
    write_new_directory,
)
from potstill.errors import ArtifactError
from potstill.files import parse_json, read_json, sync, write_atomically, write_json, write_text


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
def test_what_the_system_refuses_is_told_and_the_old_file_stands(tmp_path, monkeypatch, call, number):
    path = tmp_path / "file"
    write_text(path, "old")

    def refused(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refused)
    if call == "mkdir":
        path = tmp_path / "new" / "file"
    with pytest.raises(
        ArtifactError, match=rf"{path} can't be written: {os.strerror(number)}\n  what to do: make room"
    ):
        write_text(path, "new")
    monkeypatch.undo()
    assert (tmp_path / "file").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_content_and_name_are_waited_for_in_this_order(tmp_path, monkeypatch):
    done = []
    replace = Path.replace
    monkeypatch.setattr(files, "sync", lambda path: done.append("directory" if path.is_dir() else "content"))
    monkeypatch.setattr(Path, "replace", lambda self, target: done.append("name") or replace(self, target))
    write_text(tmp_path / "file", "text")
    assert done == ["content", "name", "directory"]


def test_a_directory_and_a_file_can_be_waited_for(tmp_path):
    sync(tmp_path)
    write_text(tmp_path / "file", "text")
    sync(tmp_path / "file")


def test_json_comes_back(tmp_path):
    value = {"name": "naïve", "numbers": [1, 2.5, None], "nested": {"yes": True}}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "found none"), (b"{", "not readable as JSON"), (b"\xff", "not readable"), (b"[1]", "found list")],
)
def test_what_is_no_json_object_is_named(tmp_path, content, message):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"3", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000])
def test_what_is_no_json_object_is_refused_by_name(content):
    with pytest.raises(ArtifactError, match="somewhere"):
        parse_json(content, Path("somewhere"))


def test_a_directory_in_a_files_place_is_told(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(ArtifactError, match="file is not readable"):
        read_json(tmp_path / "file")
    with pytest.raises(ArtifactError, match="file can't be written"):
        write_json(tmp_path / "file", {})
    assert not list((tmp_path / "file").iterdir())


def test_a_cache_that_can_not_be_written_to_is_told(tmp_path):
    (tmp_path / "tokens").write_text("no directory")
    for write in (
        lambda: write_arrays(tmp_path / "tokens" / "key", {}),
        lambda: write_directory_atomically(tmp_path / "tokens" / "key", lambda path: None),
    ):
        with pytest.raises(ArtifactError, match="can't be written"):
            write()
    assert read_arrays(tmp_path / "tokens" / "key") is None


def test_a_mapped_arrays_space_is_set_aside_before_it_is_filled(tmp_path, monkeypatch):
    """A disk that is full ends a process that writes to mapped memory; here it is an error, and nothing is left."""

    def full(handle, offset, length):
        assert length >= 8_000_000
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    filled = []
    with pytest.raises(ArtifactError, match="can't be written: No space left"):
        mapped_array(tmp_path / "states" / "key", (1000, 1000), "float64", filled.append)
    assert not filled
    assert [one.name for one in (tmp_path / "states").iterdir()] == [".key.lock"]


def test_what_a_killed_process_left_of_an_entry_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".key.abcd1234").mkdir()
    (tmp_path / ".key.abcd1234" / "array.npy").write_bytes(b"half")
    (tmp_path / ".key2.abcd1234").mkdir()
    assert mapped_array(tmp_path / "key", (2,), "int32", lambda array: array.fill(1)).tolist() == [1, 1]
    assert sorted(one.name for one in tmp_path.iterdir()) == [".key.lock", ".key2.abcd1234", "key"]


def test_two_who_miss_the_same_entry_make_it_once(tmp_path):
    """Else the later one might remove, as damaged, what the earlier one has just completed."""
    filled = []

    def fill(array):
        filled.append(threading.current_thread())
        begun.set()
        assert not second_done.wait(0.2)  # it waits for this one
        array.fill(1)

    begun, second_done = threading.Event(), threading.Event()

    def make():
        mapped_array(tmp_path / "key", (2,), "int32", fill)

    first = threading.Thread(target=make)
    first.start()
    begun.wait()
    make()
    second_done.set()
    first.join()
    assert filled == [first]


def test_a_directory_that_is_meant_to_last_is_waited_for(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(artifacts, "sync", lambda path: waited.append(path.name))

    def fill(place):
        (place / "in").mkdir()
        (place / "in" / "file").touch()

    assert write_directory_atomically(tmp_path / "cached", fill)
    assert not waited
    write_new_directory(tmp_path / "new", fill)
    assert {*waited[:2]} == {"in", "file"}
    assert waited[2].startswith(".new.")
    assert waited[3:] == [tmp_path.name]


def test_a_directory_that_appears_meanwhile_is_kept_and_that_is_told(tmp_path):
    def fill(place):
        (tmp_path / "new").mkdir()

    assert not write_directory_atomically(tmp_path / "new", lambda _: (tmp_path / "new").mkdir())
    (tmp_path / "new").rmdir()
    with pytest.raises(ArtifactError, match="new was made by another process meanwhile"):
        write_new_directory(tmp_path / "new", fill)
    assert [one.name for one in tmp_path.iterdir()] == ["new"]


def test_an_empty_directory_that_has_to_stay_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (Path(), tmp_path):
        with pytest.raises(ArtifactError, match=r"can't be replaced .* working directory\n.* name a new directory"):
            vacate(place)
    assert tmp_path.is_dir()

    def is_a_mounted_volume(self):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "rmdir", is_a_mounted_volume)
    with pytest.raises(ArtifactError, match="can't be replaced"):
        vacate(tmp_path / "volume")


@pytest.mark.parametrize("name", ["array.npy", "sha256"])
def test_a_damaged_mapped_array_is_made_again(tmp_path, name):
    place, filled = tmp_path / "key", []

    def fill(array):
        filled.append(array.shape)
        array[:] = [[1, 2], [3, 4]]

    for _ in range(2):
        assert mapped_array(place, (2, 2), "int32", fill).tolist() == [[1, 2], [3, 4]]
    assert len(filled) == 1
    whole = (place / name).read_bytes()
    for content in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        (place / name).write_bytes(content)
        assert mapped_array(place, (2, 2), "int32", fill).tolist() == [[1, 2], [3, 4]]
    assert len(filled) == 4
