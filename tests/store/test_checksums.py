import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.errors import ArtifactError
from potstill.predict.directory import holds
from potstill.store import checksums
from potstill.store.checksums import (
    CHECKSUMS_FILE,
    assert_unchanged,
    atomic_save,
    digest,
    has_checksums,
    read,
    verify,
    write_checksums,
)

FILES = {"weights": b"0123456789", "manifest.json": b'{"a": 1}', "empty": b""}


@pytest.fixture
def directory(tmp_path):
    return save(tmp_path / "model", FILES)


def save(directory, files):
    with atomic_save(directory) as staged:
        for name, content in files.items():
            (staged / name).write_bytes(content)
    return directory


def names_of(directory):
    return {path.name for path in directory.iterdir()}


def test_saved_files_are_read_and_there_are_no_others(directory):
    assert read(directory, FILES) == FILES
    assert set(verify(directory, FILES)) == set(FILES)
    assert names_of(directory) == {*FILES, CHECKSUMS_FILE}
    content = json.loads((directory / CHECKSUMS_FILE).read_text())
    assert content["format"] == 1
    assert content["files"]["weights"] == {
        "bytes": 10,
        "sha256": "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882",
    }


@pytest.mark.parametrize("name", [*FILES, CHECKSUMS_FILE])
@pytest.mark.parametrize("reader", [read, verify])
def test_every_flip_and_every_truncation_is_refused_or_harmless(directory, name, reader):
    """Harmless: what is read is what was saved, since white space of checksums.json was cut off, say."""
    path = directory / name
    whole = path.read_bytes()
    intact = reader(directory, FILES)
    cut = [whole[:place] for place in range(len(whole))]
    flipped = [
        whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
        for place in range(len(whole))
        for mask in (1, 0x10, 0x80)
    ]
    for content in (*cut, *flipped, whole + b"x"):
        path.write_bytes(content)
        try:
            found = reader(directory, FILES)
        except ArtifactError as error:
            found = None
            message = str(error)
        if found is None:
            assert str(path if name != CHECKSUMS_FILE else directory) in message
        else:
            assert name == CHECKSUMS_FILE
            assert sorted(found) == sorted(intact)
            assert not isinstance(found, dict) or found == intact


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), r"is incomplete: expected a file weights, found none"),
        (lambda path: path.write_bytes(b"012345678"), r"weights was cut short: expected 10 bytes, found 9"),
        (lambda path: path.write_bytes(b"01234567890"), r"weights was altered: expected 10 bytes, found 11"),
        (lambda path: path.write_bytes(b"012345678x"), r"weights was altered, or is of another save"),
        (lambda path: (path.unlink(), os.mkfifo(path)), r"is incomplete: expected a file weights"),
    ],
)
def test_each_damage_is_reported(directory, change, message):
    change(directory / "weights")
    with pytest.raises(ArtifactError, match=message):
        read(directory, FILES)
    with pytest.raises(ArtifactError, match=message):
        verify(directory)


def test_a_file_that_is_not_listed_is_not_read(directory):
    (directory / "more").write_bytes(b"x")
    for reader in (read, verify):
        with pytest.raises(ArtifactError, match="expected more among the listed files"):
            reader(directory, ["more"])
    assert "more" not in verify(directory)


def test_a_directory_without_checksums_is_refused_until_they_are_written(directory):
    (directory / CHECKSUMS_FILE).unlink()
    assert not has_checksums(directory)
    with pytest.raises(ArtifactError, match=r"expected checksums\.json"):
        read(directory, FILES)
    write_checksums(directory)
    assert read(directory, FILES) == FILES


@pytest.mark.parametrize(
    "name", ["../weights", "a/b", "..", ".", "", "/etc/passwd", "a\\b", "c:d", "a\0b", CHECKSUMS_FILE]
)
def test_no_name_leads_out_of_the_directory(directory, name):
    entry = {"bytes": 10, "sha256": "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"}
    (directory / CHECKSUMS_FILE).write_text(json.dumps({"format": 1, "files": {name: entry}}))
    with pytest.raises(ArtifactError, match="expected names of files in the same directory"):
        verify(directory)
    with pytest.raises(ArtifactError):
        write_checksums(directory, [name])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b'{"format": 2, "files": {}}',
        b'{"format": 1}',
        b'{"format": 1, "files": {"weights": 3}}',
        b'{"format": 1, "files": {"weights": {"bytes": true, "sha256": "' + b"0" * 64 + b'"}}}',
        b'{"format": 1, "files": {"weights": {"bytes": 10, "sha256": "zz"}}}',
        b'{"format": 1, "files": {"weights": {"bytes": 1' + b"0" * 5000 + b', "sha256": ""}}}',
        b" " * (1 << 20) + b"{}",
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_damaged_checksums_file_is_refused(directory, content):
    (directory / CHECKSUMS_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match=CHECKSUMS_FILE):
        read(directory, ["weights"])


@pytest.mark.parametrize(("on_disk", "message"), [(10, "cut short"), (1 << 40, "too large")])
def test_sizes_beyond_memory_are_refused_unread(directory, on_disk, message):
    content = json.loads((directory / CHECKSUMS_FILE).read_text())
    content["files"]["weights"]["bytes"] = 1 << 40
    (directory / CHECKSUMS_FILE).write_text(json.dumps(content))
    os.truncate(directory / "weights", on_disk)  # sparse
    with pytest.raises(ArtifactError, match=message):
        read(directory, ["weights"])


def test_a_file_that_is_not_replaced_stays_listed_and_refused_where_it_was_damaged(directory):
    (directory / "weights").write_bytes(b"damaged")
    with atomic_save(directory) as staged:
        (staged / "manifest.json").write_bytes(b"{}")
    assert read(directory, ["manifest.json", "empty"]) == {"manifest.json": b"{}", "empty": b""}
    with pytest.raises(ArtifactError, match="weights was cut short"):
        verify(directory)


def test_files_grown_by_other_means_are_listed_on_request(directory):
    (directory / "history").write_bytes(b"1\n2\n")
    with atomic_save(directory, also=["history"]) as staged:
        (staged / "end").write_bytes(b"")
    assert set(verify(directory)) == {*FILES, "history", "end"}


def write_half(path):
    path.write_bytes(b"half")
    raise RuntimeError("half")


def test_a_save_that_fails_leaves_the_old_files_and_no_other(directory):
    with pytest.raises(RuntimeError, match="half"), atomic_save(directory) as staged:
        write_half(staged / "weights")
    assert read(directory, FILES) == FILES
    assert names_of(directory) == {*FILES, CHECKSUMS_FILE}


class Killed(BaseException):
    pass


NEW = {"weights": b"new", "manifest.json": b'{"a": 2}', "empty": b"no more"}


@pytest.mark.parametrize("moves", range(5))
def test_a_save_killed_at_any_of_its_moves_leaves_the_old_model_or_the_new_one(directory, monkeypatch, moves):
    """The first renaming is that of checksums.json, among the files that wait: from then on the save counts."""
    made = 0
    replace = Path.replace

    def counted(self, target):
        nonlocal made
        if made == moves:
            raise Killed
        made += 1
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        patch.setattr(shutil, "rmtree", lambda *arguments, **options: None)  # a killed process tidies nothing
        with pytest.raises(Killed):
            save(directory, NEW)
    expected = FILES if moves == 0 else NEW
    copy = shutil.copytree(directory, directory.parent / "copy")
    assert read(directory, FILES) == expected
    assert set(verify(copy, FILES)) == set(FILES)
    save(directory, FILES)
    assert names_of(directory) == {*FILES, CHECKSUMS_FILE}  # nothing of the killed one is left


@pytest.fixture
def waiting(directory):
    """A directory whose first save was killed when it counted and nothing was moved yet."""
    staged = directory / ".saving-x"
    staged.mkdir()
    for name in names_of(directory) - {staged.name}:
        (directory / name).replace(staged / name)
    return directory


@pytest.mark.parametrize("name", FILES)
def test_the_files_of_a_killed_save_are_found(waiting, name):
    assert holds(waiting, name)
    assert names_of(waiting) == {*FILES, CHECKSUMS_FILE}


def test_a_link_to_another_directory_is_not_taken_for_a_save(directory, tmp_path):
    other = save(tmp_path / "other", NEW)
    (directory / ".saving-x").symlink_to(other, target_is_directory=True)
    assert read(directory, FILES) == FILES
    assert names_of(other) == {*FILES, CHECKSUMS_FILE}
    assert not (directory / "weights").is_symlink()


def test_a_link_in_a_save_is_not_moved(waiting, tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    (waiting / ".saving-x" / "link").symlink_to(tmp_path / "mine")
    assert read(waiting, FILES) == FILES
    assert not (waiting / "link").exists()


@pytest.mark.parametrize("moved", [None, "weights", CHECKSUMS_FILE])
def test_a_save_that_comes_in_between_is_noticed_however_far_it_has_come(directory, moved):
    """None: none of its files is in place yet, but it counts."""
    with assert_unchanged(directory):
        verify(directory)

    def read_while_it_is_saved():
        with assert_unchanged(directory):
            save(staged, NEW)
            for name in ("weights", CHECKSUMS_FILE)[: ("weights", CHECKSUMS_FILE).index(moved) + 1 if moved else 0]:
                (staged / name).replace(directory / name)

    staged = directory / ".saving-x"
    with pytest.raises(ArtifactError, match="was saved again while it was read"):
        read_while_it_is_saved()


def test_a_reader_that_meets_a_save_reads_again(directory, monkeypatch):
    compare, met = checksums._compare, []

    def meets_a_save(*arguments, **options):
        if not met:
            met.append(arguments)
            save(directory, NEW)
        return compare(*arguments, **options)

    monkeypatch.setattr(checksums, "_compare", meets_a_save)
    assert read(directory, FILES) == NEW


def test_a_killed_save_in_a_read_only_directory_is_reported(directory, monkeypatch):
    staged = directory / ".saving-x"
    shutil.copytree(directory, staged)

    def refused(self, target):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(ArtifactError, match="a save was interrupted, and can't be ended: Read-only file system"):
        read(directory, FILES)


parts_strategy = st.lists(st.text() | st.binary(), max_size=4)


@given(first=parts_strategy, second=parts_strategy)
def test_only_equal_parts_have_equal_digests(first, second):
    as_bytes = [[part.encode() if isinstance(part, str) else part for part in parts] for parts in (first, second)]
    assert (digest(first) == digest(second)) == (as_bytes[0] == as_bytes[1])
