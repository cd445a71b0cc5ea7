import csv
import errno
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from potstill.errors import ArtifactError
from potstill.predict.output import AnswerFile, AnswerStream, Progress, Writing
from potstill.predict.stream import BEGINNING, Position, Text

LABELS = ("good", "bad")
TEXTS = [Text(1, 'a "b",\r\nc\u2028d', BEGINNING), Text(4, "é\r", BEGINNING)]
PROBABILITIES = np.array([[0.25, 0.75], [0.99996, 0.00004]], dtype=np.float32)


def test_jsonl():
    writing = Writing("jsonl", LABELS, in_pairs=False)
    assert writing.header() == b""
    lines = writing.answers(TEXTS, PROBABILITIES, (False, True)).decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        {"line": 1, "text": 'a "b",\r\nc\u2028d', "label": "bad", "probability": 0.75, "truncated": False},
        {"line": 4, "text": "é\r", "label": "good", "probability": 1.0, "truncated": True},
    ]


@pytest.mark.parametrize(
    ("names", "kind", "expected"),
    [
        (("0", "1"), "int", 1),
        (("0.0", "1.0"), "float", 1.0),
        (("False", "True"), "bool", True),
        (("0", "1"), "str", "1"),
        (("a", "b"), "int", "b"),
        (("0.5", "inf"), "float", "inf"),
    ],
)
def test_labels_have_their_type_in_jsonl(names, kind, expected):
    writing = Writing("jsonl", names, in_pairs=False, label_type=kind, with_probabilities=True)
    (line,) = writing.answers(TEXTS[:1], PROBABILITIES[:1], (False,)).splitlines()
    answer = json.loads(line)
    assert (answer["label"], type(answer["label"])) == (expected, type(expected))
    assert tuple(answer["probabilities"]) == names
    content = replace(writing, format="csv").answers(TEXTS[:1], PROBABILITIES[:1], (False,)).decode()
    assert content.endswith(f",{names[1]},0.75,0.25,0.75\r\n")


def test_a_column_called_truncated_is_renamed():
    text = Text(1, "a", BEGINNING, {"truncated": "yes"})
    answer = json.loads(Writing("jsonl", LABELS, in_pairs=False).answers([text], PROBABILITIES[:1], (False,)))
    assert (answer["truncated"], answer["input_truncated"]) == (False, "yes")


def test_csv():
    writing = Writing("csv", LABELS, in_pairs=False)
    content = (writing.header() + writing.answers(TEXTS, PROBABILITIES, (False, True))).decode()
    assert list(csv.reader(io.StringIO(content, newline=""), strict=True)) == [
        ["line", "text", "label", "probability"],
        ["1", 'a "b",\r\nc\u2028d', "bad", "0.75"],
        ["4", "é\r", "good", "1.0"],
    ]


@pytest.mark.parametrize(("threshold", "label", "probability"), [(0.7, "bad", 0.75), (0.8, "good", 0.25)])
def test_a_threshold_decides_label_and_probability(threshold, label, probability):
    writing = Writing("jsonl", LABELS, in_pairs=False, threshold=threshold)
    answer = json.loads(writing.answers(TEXTS[:1], PROBABILITIES[:1], (False,)))
    assert (answer["label"], answer["probability"]) == (label, probability)


def test_several_labels_are_a_list():
    writing = Writing("jsonl", ("1", "2"), in_pairs=False, label_type="int", threshold=(0.2, 0.5))
    lines = writing.answers(TEXTS, PROBABILITIES, (False, None)).decode().split("\n")
    first, second = map(json.loads, lines[:-1])
    assert (first.pop("line"), first.pop("text")) == (1, TEXTS[0].value)
    assert first == {"labels": [1, 2], "probabilities": {"1": 0.25, "2": 0.75}, "truncated": False}
    assert (second["labels"], second["probabilities"]) == ([1], {"1": 1.0})
    every = json.loads(replace(writing, with_probabilities=True).answers(TEXTS[1:], PROBABILITIES[1:], (None,)))
    assert (every["labels"], every["probabilities"]) == ([1], {"1": 1.0, "2": 0.0})


def test_several_labels_are_json_in_csv():
    writing = Writing("csv", LABELS, in_pairs=False, threshold=(0.2, 0.9), with_probabilities=True)
    low = np.array([[0.1, 0.2]], dtype=np.float32)
    content = writing.header() + writing.answers(TEXTS[:1], PROBABILITIES[:1], (False,))
    content += writing.answers(TEXTS[1:], low, (False,))
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True))
    assert [row["labels"] for row in rows] == ['["good"]', "[]"]
    assert list(rows[0]) == ["line", "text", "labels", "probability_good", "probability_bad"]


def test_pairs():
    pair = [Text(2, ("a", "b"), BEGINNING)]
    answer = json.loads(Writing("jsonl", LABELS, in_pairs=True).answers(pair, PROBABILITIES[:1], (None,)))
    assert answer.pop("truncated") is None
    assert answer == {"line": 2, "text": "a", "pair": "b", "label": "bad", "probability": 0.75}
    assert Writing("csv", LABELS, in_pairs=True).header() == b"line,text,pair,label,probability\r\n"


def test_a_stream_gets_every_answer_at_once():
    stream = io.BytesIO()
    answers = AnswerStream(stream)
    answers.append(b"one\n", replace(answers.progress, answered=1))
    assert stream.getvalue() == b"one\n"
    answers.finish()
    assert answers.progress == Progress("", written=4, answered=1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without a full device")
def test_a_full_device_is_reported():
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(ArtifactError, match=r"No space left[^\n]*\n.*--out"),
    ):
        AnswerStream(full).append(b"one\n", Progress(""))


class TestFile:
    READ = Position(10, 2, 99)

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "answers.jsonl"

    @pytest.fixture
    def begun(self, path):
        answers = AnswerFile(path, "task")
        answers.append(b"one\n", replace(answers.progress, read=self.READ, answered=1, broken=1))
        return path.with_name("answers.jsonl.part")

    def test_the_name_is_given_at_the_end(self, path, begun):
        assert not path.exists()
        AnswerFile(path, "task").finish()
        assert path.read_bytes() == b"one\n"
        assert list(path.parent.iterdir()) == [path]

    def test_an_interrupted_file_is_resumed(self, path, begun):
        answers = AnswerFile(path, "task")
        assert answers.progress == Progress("task", self.READ, written=4, answered=1, broken=1)
        answers.append(b"two\n", replace(answers.progress, answered=2))
        answers.finish()
        assert path.read_bytes() == b"one\ntwo\n"

    def test_answers_beyond_the_note_are_cut_off(self, path, begun):
        begun.write_bytes(b"one\ntwo\nthr")
        AnswerFile(path, "task").finish()
        assert path.read_bytes() == b"one\n"

    def test_a_note_without_answers_is_dropped(self, path, begun):
        begun.unlink()
        assert AnswerFile(path, "task").progress == Progress("task")

    def test_a_complete_file_is_never_overwritten(self, path):
        path.write_text("old")
        with pytest.raises(ArtifactError, match="is there already"):
            AnswerFile(path, "task")
        assert path.read_text() == "old"

    @pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
    def test_one_process_writes_it_at_a_time(self, path, begun):
        answers = AnswerFile(path, "task")
        with pytest.raises(ArtifactError, match="expected no other process"):
            AnswerFile(path, "task")
        answers.append(b"two\n", replace(answers.progress, answered=2))
        answers.finish()
        assert path.read_bytes() == b"one\ntwo\n"

    def test_another_task_is_not_resumed(self, path, begun):
        with pytest.raises(ArtifactError, match="expected other, found task\n  what to do"):
            AnswerFile(path, "other")
        assert begun.read_bytes() == b"one\n"

    def test_another_task_begins_where_nothing_was_answered(self, path):
        """The first attempt may have named a missing column."""
        answers = AnswerFile(path, "task")
        answers.append(b"header\n", answers.progress)
        del answers
        other = AnswerFile(path, "other")
        assert other.progress == Progress("other")
        other.append(b"one\n", replace(other.progress, read=self.READ, answered=1))
        other.finish()
        assert path.read_bytes() == b"one\n"

    @pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
    def test_a_file_system_without_locks(self, path, monkeypatch):
        def unknown(*_):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr("fcntl.flock", unknown)
        answers = AnswerFile(path, "task")
        answers.append(b"one\n", replace(answers.progress, read=self.READ))
        answers.finish()
        assert path.read_bytes() == b"one\n"

    @pytest.mark.parametrize("note", [None, "", "[]", "{}", '{"task": "task", "read": [1, 2, 3, 4]}', '{"read": 3}'])
    def test_a_damaged_note_is_refused(self, path, begun, note):
        file = begun.with_name("answers.jsonl.part.json")
        file.unlink() if note is None else file.write_text(note)
        with pytest.raises(ArtifactError, match=r"does not say how far .*\n  what to do: .*remove"):
            AnswerFile(path, "task")
        assert begun.read_bytes() == b"one\n"

    def test_a_file_shorter_than_its_note_says_is_refused(self, path, begun):
        begun.write_bytes(b"one")
        with pytest.raises(ArtifactError, match="expected at least 4 bytes, found 3"):
            AnswerFile(path, "task")

    def test_a_missing_directory_is_reported(self, tmp_path):
        with pytest.raises(ArtifactError, match="can't be written"):
            AnswerFile(tmp_path / "nowhere" / "answers.jsonl", "task")
