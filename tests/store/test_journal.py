"""Records that are appended one by one: what a kill or damage leaves of them."""

import pytest

from potstill.errors import ArtifactError
from potstill.store.journal import Journal


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path / "new" / "journal.jsonl")


def test_records_come_back_in_their_order(journal):
    records = [["a", 1.5], {"b": None}, "ü\n", 3]
    assert list(journal) == []
    for record in records:
        journal.append(record)
    assert list(Journal(journal.path)) == records


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_record_that_a_kill_cut_short_is_missing_and_damages_no_later_one(journal, cut):
    for record in ("first", "second" * 10):
        journal.append(record)
    journal.path.write_bytes(journal.path.read_bytes()[:-cut])
    assert list(journal) == ["first"]
    journal.append("third")
    assert list(journal) == ["first", "third"]


def test_an_altered_record_is_missing(journal):
    for record in ("first", "second", "third"):
        journal.append(record)
    journal.path.write_bytes(journal.path.read_bytes().replace(b"second", b"secund") + b"\n\xff\xff no record")
    assert list(journal) == ["first", "third"]


def test_two_writers_lose_nothing(journal):
    other = Journal(journal.path)
    for number in range(20):
        (journal, other)[number % 2].append(number)
    assert list(journal) == list(range(20))


def test_what_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="can't be written"):
        Journal(tmp_path / "file" / "journal.jsonl").append(1)


def test_a_cleared_journal_is_empty(journal):
    journal.append(1)
    journal.clear()
    journal.clear()
    assert list(journal) == []
