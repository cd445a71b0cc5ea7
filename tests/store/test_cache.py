import threading
from pathlib import Path

import numpy as np
import pytest

from potstill.errors import ArtifactError
from potstill.store import cache
from potstill.store.cache import cache_directory, cached_arrays, cached_directory, lock, read_arrays, write_arrays


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def entries(tmp_path):
    """Where entries of the kind `kind` are."""
    return tmp_path / "cache" / "kind"


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("POTSTILL_CACHE")
    assert cache_directory() == tmp_path / "user" / "potstill"


def test_arrays_are_read_back_and_no_damaged_file_is(tmp_path):
    path = tmp_path / "arrays"
    assert read_arrays(path) is None
    assert read_arrays(tmp_path) is None
    write_arrays(path, {"ids": np.arange(6, dtype=np.int32).reshape(2, 3), "empty": np.zeros(0, np.float32)})
    whole = path.read_bytes()
    found = read_arrays(path)
    assert found["ids"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (found["ids"].dtype, found["empty"].shape) == (np.int32, (0,))
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert read_arrays(path) is None
        path.write_bytes(whole[:position])
        assert read_arrays(path) is None


def test_arrays_are_made_once_and_again_when_damaged(entries):
    made = []

    def make():
        made.append(None)
        return {"one": np.ones(2)}

    for damage, times in ((None, 1), (None, 1), (b"damaged", 2)):
        if damage is not None:
            (entries / "key").write_bytes(damage)
        assert cached_arrays("kind", "key", make)["one"].tolist() == [1, 1]
        assert len(made) == times


@pytest.mark.parametrize("name", ["a", "b", "checksums.json"])
def test_a_directory_is_made_once_and_again_when_damaged(monkeypatch, name):
    made = []

    def fill(directory):
        made.append(None)
        (directory / "a").write_bytes(b"one")
        (directory / "b").write_bytes(b"two")

    for _ in range(2):
        path = cached_directory("kind", "key", fill)
    assert len(made) == 1
    whole = (path / name).read_bytes()
    for number, content in enumerate((whole[:-2], whole[:-2] + b"??", b"")):
        (path / name).write_bytes(content)
        monkeypatch.setattr(cache, "_verified", set())  # as another process finds it
        cached_directory("kind", "key", fill)
        assert len(made) == 2 + number
        assert (path / name).read_bytes() == whole


def test_a_failed_fill_leaves_nothing(entries):
    with pytest.raises(ZeroDivisionError):
        cached_directory("kind", "key", lambda directory: (directory / "half").touch() or 1 / 0)
    assert [one.name for one in entries.iterdir()] == [".key.lock"]


def test_leftovers_of_killed_processes_are_removed(entries):
    for left in (".key.abcd1234", ".key2.abcd1234"):
        (entries / left).mkdir(parents=True)
        (entries / left / "half").touch()
    (entries / ".key.efgh5678").touch()
    cached_directory("kind", "key", lambda directory: None)
    assert sorted(one.name for one in entries.iterdir()) == [".key.lock", ".key2.abcd1234", "key"]


def test_concurrent_misses_make_an_entry_once():
    """Else the later one might remove, as damaged, what the earlier one has just completed."""
    made = []

    def fill(directory):
        made.append(threading.current_thread())
        begun.set()
        assert not second_done.wait(0.2)  # it waits for this one

    begun, second_done = threading.Event(), threading.Event()
    first = threading.Thread(target=cached_directory, args=("kind", "key", fill))
    first.start()
    begun.wait()
    cached_directory("kind", "key", fill)
    second_done.set()
    first.join()
    assert made == [first]


def test_an_intact_entry_of_a_read_only_cache_is_read(monkeypatch):
    cached_directory("kind", "key", lambda directory: (directory / "a").touch())
    monkeypatch.setattr(cache, "_verified", set())
    monkeypatch.setattr(cache, "lock", None)  # would fail if it were called
    assert (cached_directory("kind", "key", None) / "a").is_file()


def test_an_unwritable_cache_is_reported(entries):
    entries.parent.mkdir()
    entries.write_text("no directory")

    def lock_it():
        with lock(entries / "key"):
            pass

    for write in (
        lambda: write_arrays(entries / "key", {}),
        lambda: cached_directory("kind", "key", Path.touch),
        lock_it,
    ):
        with pytest.raises(ArtifactError, match="can't be written"):
            write()
    assert read_arrays(entries / "key") is None
