import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.artifacts import digest, file_digest, new_run_directory, read_arrays, write_arrays
from potstill.errors import ArtifactError
from potstill.files import cache_directory

parts_strategy = st.lists(st.text() | st.binary(), max_size=4)


def as_bytes(parts):
    return [part.encode() if isinstance(part, str) else part for part in parts]


@given(first=parts_strategy, second=parts_strategy)
def test_only_equal_parts_have_equal_digests(first, second):
    assert (digest(first) == digest(second)) == (as_bytes(first) == as_bytes(second))


def test_parts_do_not_run_into_each_other():
    assert len({digest(parts) for parts in (["ab"], ["a", "b"], ["", "ab"], ["ab", ""], ["\ud800"])}) == 5


def test_file_digest_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_cache_stands_where_it_was_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("POTSTILL_CACHE", raising=False)
    assert cache_directory() == tmp_path / "user" / "potstill"
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "named"))
    assert cache_directory() == tmp_path / "named"


def test_arrays_come_back_and_nothing_else_does(tmp_path):
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


def test_a_run_never_overwrites_another(tmp_path):
    assert new_run_directory(tmp_path / "a" / "run", "name").is_dir()
    assert new_run_directory(tmp_path / "a" / "run", "name").is_dir()  # still empty
    (tmp_path / "a" / "run" / "file").touch()
    for taken in ("run", "run/file"):
        with pytest.raises(ArtifactError, match="name another directory"):
            new_run_directory(tmp_path / "a" / taken, "name")


def test_unnamed_runs_of_one_second_stand_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda template: "20240401-120000")
    names = [new_run_directory(None, "cola").name for _ in range(3)]
    assert names == ["cola-20240401-120000", "cola-20240401-120000-2", "cola-20240401-120000-3"]
