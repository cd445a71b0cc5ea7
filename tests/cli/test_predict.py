"""`potstill predict` on streams: formats, order, broken lines, interruption."""

import csv
import datetime
import gzip
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commandline import potstill, train_small
from potstill.config import PotstillConfig
from potstill.data import Examples, load_corpus
from potstill.predict import Classifier, session, stream
from potstill.store.checksums import atomic_save
from potstill.student.saved import load_network
from potstill.student.student import Student
from potstill.training.compute import make_fabric
from potstill.training.inference import predict_logits

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "another", "dog"]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    rows = [f"{WORDS[i % 10]} {WORDS[i % 7]},{'yes' if i % 2 else 'no'}" for i in range(40)]
    return train_small(tmp_path_factory.mktemp("student"), ["text,label", *rows])


@pytest.fixture(scope="module")
def pair_student(tmp_path_factory):
    rows = [f"{WORDS[i % 10]},{WORDS[i % 7]},{'yes' if i % 2 else 'no'}" for i in range(40)]
    return train_small(tmp_path_factory.mktemp("pairs"), ["text,second,label", *rows], "--pair-column", "second")


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Many chunks in a small file."""
    monkeypatch.setattr(stream, "CHUNK_TEXTS", 4)


def sentences(count):
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 20))) for _ in range(count)]


def answers(printed):
    return [json.loads(line) for line in printed.splitlines()]


def test_answers_keep_the_order_of_the_texts(student, tmp_path, capsys):
    """Although texts of like length are computed together."""
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(sentences(30)))
    assert potstill("predict", student, file) == 0
    found = answers(capsys.readouterr().out)
    assert [answer["text"] for answer in found] == sentences(30)
    assert [answer["line"] for answer in found] == list(range(1, 60, 2))
    for answer in found:
        assert potstill("predict", student, "--text", answer["text"]) == 0
        (alone,) = answers(capsys.readouterr().out)
        assert alone["label"] == answer["label"]
        assert alone["probability"] == pytest.approx(answer["probability"], abs=2e-4)


@pytest.mark.parametrize("name", ["csv", "tsv", "jsonl", "text"])
def test_all_formats_give_the_same_answers(student, tmp_path, capsys, name):
    texts = sentences(9)
    content = {
        "csv": "id,sentence\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(texts)),
        "tsv": "id\tsentence\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)),
        "jsonl": "".join(json.dumps({"id": i, "sentence": text}) + "\n" for i, text in enumerate(texts)),
        "text": "\n".join(texts),
    }[name]
    file, plain = tmp_path / f"file.{name}", tmp_path / "plain"
    file.write_text(content)
    plain.write_text("\n".join(texts))
    columns = () if name == "text" else ("--text-column", "sentence")
    assert potstill("predict", student, file, *columns) == 0
    found = answers(capsys.readouterr().out)
    assert potstill("predict", student, plain) == 0
    for index, (answer, expected) in enumerate(zip(found, answers(capsys.readouterr().out), strict=True)):
        assert str(answer.pop("id", index)) == str(index)
        assert answer | {"line": 0} == expected | {"line": 0}


def test_columns_are_those_of_the_training(pair_student, tmp_path, capsys):
    file = tmp_path / "pairs.csv"
    file.write_text("a,second,text\nthe cat,the dog,a mat\n")
    assert potstill("predict", pair_student, file) == 0
    assert answers(capsys.readouterr().out)[0].items() >= {"text": "a mat", "pair": "the dog", "a": "the cat"}.items()
    assert potstill("predict", pair_student, file, "--text-column", "a") == 0
    assert answers(capsys.readouterr().out)[0].items() >= {"text": "the cat", "pair": "the dog"}.items()
    bare = shutil.copytree(pair_student, tmp_path / "bare")
    (bare / "config.yaml").unlink()
    assert potstill("predict", bare, file) == 2
    assert "--pair-column" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "4"], ids=["tokens", "tokens and n-grams"])
def test_the_end_of_long_texts_is_read_in_training_and_in_prediction(tmp_path, capsys, size):
    rows = [f"{'cat ' * (i % 10 + 1)}{'dog' if i % 2 else 'mat'},{'yes' if i % 2 else 'no'}" for i in range(40)]
    flags = ("--max-length", "8", "--ngram-size", size)
    head, ends = (
        train_small(tmp_path, ["text,label", *rows], *flags, "--long-texts", how, name=how)
        for how in ("head", "head-tail")
    )
    texts = [f"{'cat ' * 50}{middle}{'mat ' * 50}{end}" for middle in ("saw ", "") for end in ("dog", "mat")]
    logits = Classifier.load(ends).logits(texts)
    assert np.array_equal(logits[:2], logits[2:])  # whatever is between
    assert not np.allclose(logits[0], logits[1])
    assert np.ptp(Classifier.load(head).logits(texts), axis=0).max() == 0
    config = PotstillConfig.load(ends / "config.yaml")
    corpus = load_corpus(config.data)
    student = Student.create(config.student, corpus, 8, 0, long_texts=config.data.long_texts)
    student.network.load_state_dict(load_network(ends).state_dict())
    examples = Examples(tuple(texts), np.zeros(4, np.int64))
    exact = make_fabric(config.runtime.model_copy(update={"precision": "32-true"}))
    learnt = predict_logits(student.network, student.featurise(examples), exact).numpy()
    np.testing.assert_allclose(learnt, logits, atol=1e-4)  # read as the training reads them
    model = tmp_path / "model"
    assert potstill("export", ends, "--out", model) == 0
    assert np.array_equal(Classifier.load(model).logits(texts), logits)
    assert "It reads the first and last, together 8 tokens" in (model / "card.md").read_text()
    assert '"head-tail"' in (model / "card.md").read_text() or size == "0"


def test_what_is_cut_is_said(tmp_path, capsys):
    """In training, by `potstill data`, and in the answers; labels that are numbers come back as numbers."""
    rows = [f"{'cat ' * (i % 10 + 1)}dog,{i % 2}" for i in range(40)]
    model = train_small(tmp_path, ["text,label", *rows], "--max-length", "4")
    said = capsys.readouterr().err
    assert re.search(r"baseline student: \d+ of 32 texts are cut to 4 tokens, \d+\.\d % of all tokens", said)
    assert potstill("data", tmp_path / "data.csv", "--max-length", "4", "--write", tmp_path / "parts") == 0
    assert re.search(r"training texts have more than 4 words and signs: about \d+\.\d %", capsys.readouterr().err)
    written = (tmp_path / "parts" / "train.jsonl").read_text().splitlines()
    assert {json.loads(line)["label"] for line in written} == {0, 1}
    (tmp_path / "texts.txt").write_text(f"dog\n{'dog ' * 9}\n")
    assert potstill("predict", model, tmp_path / "texts.txt") == 0
    printed = capsys.readouterr()
    assert [answer["truncated"] for answer in answers(printed.out)] == [False, True]
    assert "1 cut at the model's max_length" in printed.err
    assert set(Classifier.load(model).predict(["dog", "cat"])) <= {0, 1}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16le", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_other_encodings_are_read_and_said(student, tmp_path, capsys, encoding, suffix):
    file, lines = tmp_path / f"texts{suffix}", ["Wo ist mein Päckchen?", "Das Geld ist zurück, schön."]
    content = "\n".join(lines).encode(encoding)
    file.write_bytes(gzip.compress(content) if suffix == ".txt.gz" else content)
    assert potstill("predict", student, file) == 0
    printed = capsys.readouterr()
    assert [answer["text"] for answer in answers(printed.out)] == lines
    assert f"{file}: this is no UTF-8, and is read as {encoding}" in printed.err


def test_a_doubtful_encoding_is_named_with_the_command(student, tmp_path, capsys):
    file = tmp_path / "texts.txt"
    file.write_bytes("Wo ist mein Päckchen?\nDas Geld ist zurück.\n".encode("cp1252"))  # two letters
    assert potstill("predict", student, file) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"`iconv -f cp1252 -t utf-8 {file} > utf8-texts.txt`" in printed.err


@pytest.mark.parametrize("suffix", [".json.gz", ".parquet"])
def test_tables_are_read(student, tmp_path, capsys, suffix):
    file, out = tmp_path / f"texts{suffix}", tmp_path / "out.jsonl"
    rows = [{"id": n, "text": f"the cat {n}", "at": "2026-01-01"} for n in range(3)]
    if suffix == ".parquet":
        dated = [row | {"at": datetime.date(2026, 1, 1), "image": b"\xff"} for row in rows]
        pq.write_table(pa.Table.from_pylist([*dated, {"text": "bytes"}]), file)
    else:
        file.write_bytes(gzip.compress(json.dumps([*rows, {"text": "bytes"}]).encode()))
    assert potstill("predict", student, file, "--out", out) == 0
    found = answers(out.read_text())
    assert [(answer["line"], answer["text"], answer.get("id")) for answer in found] == [
        *((n + 1, f"the cat {n}", n) for n in range(3)),
        (4, "bytes", None),
    ]
    assert {answer["at"] for answer in found[:3]} == {"2026-01-01"}
    assert "4 texts answered, 0 broken" in capsys.readouterr().err


def test_other_columns_and_all_probabilities_are_written(student, tmp_path, capsys):
    file, out = tmp_path / "texts.jsonl", tmp_path / "out.csv"
    records = [{"id": 7, "text": "the cat", "label": "no", "tags": ["a"]}, {"id": 8, "text": "a dog", "more": None}]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert potstill("predict", student, file, "--probabilities") == 0
    first, second = answers(capsys.readouterr().out)
    assert (first["id"], first["input_label"], first["tags"], second["more"]) == (7, "no", ["a"], None)
    assert set(first["probabilities"]) == {"yes", "no"}
    assert first["probabilities"][first["label"]] == first["probability"]
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=2e-4)
    assert potstill("predict", student, file, "--probabilities", "--out", out) == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [(row["line"], row["id"], row["input_label"], row["tags"]) for row in rows] == [
        ("1", "7", "no", '["a"]'),
        ("2", "8", "", ""),
    ]
    assert float(rows[0][f"probability_{first['label']}"]) == first["probability"]
    assert "texts.jsonl:2: left out of CSV, since the first line lacks it: 'more'" in capsys.readouterr().err


def test_default_threads_are_the_available_cores(student, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("potstill.predict.session.open_session", lambda _, threads: asked.append(threads))
    for arguments in ((), ("--threads", "3")):
        with pytest.raises(AttributeError):  # there is no session
            potstill("predict", student, "--text", "the cat", *arguments)
    assert asked == [session.available_cores(), 3]
    assert 1 <= asked[0] <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(session, "CPU_QUOTA", tmp_path / "cpu.max")
    for quota, expected in (("150000 100000", 2), ("max 100000", 8), ("5000 100000", 1)):
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
        assert session.available_cores() == expected
    (tmp_path / "cgroup").write_text("1:net:/\n0::/system.slice/potstill.service\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "system.slice" / "potstill.service").mkdir(parents=True)
    (tmp_path / "system.slice" / "potstill.service" / "cpu.max").write_text("300000 100000\n")
    monkeypatch.setattr(session, "OWN_GROUP", tmp_path / "cgroup")
    assert session.available_cores() == 3


def test_classifier_uses_the_available_cores(student, monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(session, "CPU_QUOTA", tmp_path / "cpu.max")
    options = Classifier.load(student)._session.get_session_options()
    assert options.intra_op_num_threads == 1


@pytest.mark.parametrize("name", ["empty.txt", "empty.csv", "empty.jsonl"])
def test_no_text_gives_no_answer(student, tmp_path, capsys, name):
    (tmp_path / name).touch()
    assert potstill("predict", student, tmp_path / name, "--output-format", "csv") == 0
    assert capsys.readouterr().out == "line,text,label,probability\r\n"


def test_standard_input(student):
    program = "from potstill.cli import main; main()"
    command = [sys.executable, "-c", program, "predict", student, "-", "--input-format", "jsonl"]
    lines = '{"text": "the caf\u00e9\u2028sat"}\n{}\n{"text": "the dog"}'
    result = subprocess.run(
        command, input=lines.encode(), capture_output=True, check=False, env=os.environ | {"LC_ALL": "C"}
    )
    assert result.returncode == 3
    found = [json.loads(line) for line in result.stdout.decode().rstrip("\n").split("\n")]
    assert [answer["text"] for answer in found] == ["the caf\u00e9\u2028sat", "the dog"]
    assert "standard input:2: expected a column 'text'" in result.stderr.decode()


class TestBrokenLines:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "texts.jsonl"
        good = [json.dumps({"text": text}) for text in sentences(8)]
        path.write_bytes(b"\n".join([*(line.encode() for line in good[:6]), b"\xff", b"{", *map(str.encode, good[6:])]))
        return path

    def test_are_reported_and_skipped(self, student, file, capsys):
        assert potstill("predict", student, file) == 3
        printed = capsys.readouterr()
        assert [answer["line"] for answer in answers(printed.out)] == [1, 2, 3, 4, 5, 6, 9, 10]
        assert f"{file}:7: expected UTF-8" in printed.err
        assert f"{file}:8: expected JSON" in printed.err
        assert "8 texts answered, 2 broken" in printed.err

    def test_strict_answers_the_texts_before_the_first(self, student, file, capsys):
        assert potstill("predict", student, file, "--strict") == 1
        printed = capsys.readouterr()
        assert [answer["line"] for answer in answers(printed.out)] == [1, 2, 3, 4, 5, 6]
        assert f"error: {file}:7: expected UTF-8" in printed.err

    def test_strict_can_be_resumed_after_a_correction(self, student, file, tmp_path):
        command = ("predict", student, file, "--strict", "--out", tmp_path / "out.jsonl")
        assert potstill(*command) == 1
        file.write_bytes(file.read_bytes().replace(b"\xff\n{", b'{"text": "a"}\n{"text": "b"}'))
        assert potstill(*command) == 0
        assert [answer["line"] for answer in answers((tmp_path / "out.jsonl").read_text())] == list(range(1, 11))

    def test_alone_give_an_empty_file(self, student, tmp_path):
        file = tmp_path / "texts.jsonl"
        file.write_text("{\n" * 10)
        assert potstill("predict", student, file, "--out", tmp_path / "out") == 3
        assert (tmp_path / "out").read_bytes() == b""


KILLED = """
import os, random, signal, sys
from pathlib import Path
from potstill.cli import main
from potstill.predict import stream

stream.CHUNK_TEXTS = 4
left = int(sys.argv[2])

def deadly(call):
    def wrapped(*arguments):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return wrapped

if sys.argv[1] == "fsync":  # the answers are written, the note is not
    os.fsync = deadly(os.fsync)
else:  # the note is written and not yet in its place, or all is written and has not got its name
    Path.replace = deadly(Path.replace)
main(sys.argv[3:])
"""


@pytest.mark.parametrize(("place", "suffix"), [("fsync", "csv"), ("replace", "jsonl")])
def test_a_killed_run_is_resumed(student, tmp_path, capsys, place, suffix):
    """SIGKILL again and again, at random: the answers are those of a run that nothing disturbed, to the byte."""
    file, whole, out = tmp_path / "texts.csv", tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    rows = [f'{i},"{text}\n{text}"' if i % 5 else f'{i},"{text}' for i, text in enumerate(sentences(80))]
    file.write_text("\n".join(["id,text", *rows]))
    assert potstill("predict", student, file, "--out", whole) == 3
    counted = re.search(r"\d+ texts answered, \d+ broken", capsys.readouterr().err).group()
    generator = random.Random(place + suffix)
    kills = 0
    while not out.exists():
        command = [sys.executable, "-c", KILLED, place, str(generator.randint(1, 6)), "predict", student, file]
        result = subprocess.run([*command, "--out", out], capture_output=True, text=True, check=False)
        assert result.returncode in {-signal.SIGKILL, 3}, result.stderr
        kills += result.returncode == -signal.SIGKILL
    assert kills >= 3
    assert out.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {file.name, whole.name, out.name}
    assert counted in result.stderr


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_links_at_the_unfinished_file_are_not_followed(student, tmp_path, link, capsys):
    file, mine = tmp_path / "texts.txt", tmp_path / "mine"
    file.write_text("the cat")
    mine.write_text("precious")
    for name in ("out.part", "out.part.json.new"):
        getattr(tmp_path / name, link)(mine)
    assert potstill("predict", student, file, "--out", tmp_path / "out") == 1
    assert "out.part" in capsys.readouterr().err
    (tmp_path / "out.part").unlink()
    assert potstill("predict", student, file, "--out", tmp_path / "out") == 0
    assert mine.read_text() == "precious"


def test_unsure_answers_have_no_label_and_are_counted(student, tmp_path, capsys):
    file, out = tmp_path / "texts.txt", tmp_path / "out.csv"
    file.write_text("\n".join(sentences(30)))
    assert potstill("predict", student, file) == 0
    plain = answers(capsys.readouterr().out)
    assert potstill("predict", student, file, "--coverage", "0.25") == 0
    printed = capsys.readouterr()
    found = answers(printed.out)
    unsure = [one["label"] is None for one in found]
    assert 0 < sum(unsure) < 30
    assert [one | {"label": None} for one in plain] == [one | {"label": None} for one in found]
    assert all(one["label"] in (None, before["label"]) for one, before in zip(found, plain, strict=True))
    assert f"{sum(unsure)} of 30 texts have no label: the model is less than " in printed.err
    assert "ask a person" in printed.err
    assert potstill("predict", student, file, "--coverage", "0.25", "--out", out) == 0
    assert f"{sum(unsure)} of 30 texts have no label" in capsys.readouterr().err  # counted over chunks
    with out.open(newline="") as content:
        rows = list(csv.DictReader(content))
    assert [row["label"] == "" for row in rows] == unsure
    assert all(float(row["probability"]) > 0 for row in rows)


def test_an_interrupted_run_keeps_its_coverage_and_its_count(student, tmp_path, capsys):
    file, out = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    good = "".join(json.dumps({"text": text}) + "\n" for text in sentences(10))
    file.write_text(good + "{")
    begin = ("predict", student, file, "--out", out)
    assert potstill(*begin, "--coverage", "0.25", "--strict") == 1
    for other in ((), ("--coverage", "0.9"), ("--coverage", "0.25", "--set-error", "0.5")):
        assert potstill(*begin, *other) == 1
        assert "another model, format or column" in capsys.readouterr().err
    file.write_text(good)
    assert potstill(*begin, "--coverage", "0.25") == 0
    missing = sum(answer["label"] is None for answer in answers(out.read_text()))
    assert missing
    assert f"{missing} of 10 texts have no label" in capsys.readouterr().err


def test_sets_hold_the_labels_that_can_not_be_ruled_out(student, capsys):
    texts = [flag for text in sentences(6) for flag in ("--text", text)]
    assert potstill("predict", student, *texts, "--set-error", "0.5", "--output-format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [json.loads(row["set"]) for row in rows] == Classifier.load(student).prediction_sets(sentences(6), 0.5)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--coverage", "0.9", "--max-error", "0.1"), 2, "give either --coverage or --max-error"),
        (("--coverage", "0"), 2, "x<=1"),
        (("--max-error", "0.001"), 1, "what to do: raise --max-error, use --coverage instead"),
        (("--set-error", "0.001"), 1, "what to do: allow more, or train with more validation texts"),
    ],
)
def test_abstention_that_can_not_be_is_refused(student, capsys, flags, status, message):
    assert potstill("predict", student, "--text", "a", *flags) == status
    assert message in capsys.readouterr().err


def test_another_model_or_input_is_not_resumed(student, pair_student, tmp_path, capsys):
    file, out = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"text": "a"}\n{')
    assert potstill("predict", student, file, "--out", out, "--strict") == 1
    assert potstill("predict", student, file, "--out", out, "--output-format", "csv") == 1
    assert "another model, format or column" in capsys.readouterr().err
    assert potstill("predict", pair_student, file, "--out", out, "--pair-column", "b") == 1
    assert "another model, format or column" in capsys.readouterr().err
    file.write_text('{"text": "b"}\n{')
    assert potstill("predict", student, file, "--out", out) == 1
    assert "not the input that was begun with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "FILE"),
        (("FILE", "--text", "a"), "either FILE"),
        (("--text", "a", "--out", "out"), "--out is a file for the answers to FILE"),
        (("FILE", "--text-column", "a"), "--input-format"),
        (("FILE", "--input-format", "csv", "--pair-column", "a"), "single texts"),
    ],
)
def test_wrong_usage(student, tmp_path, capsys, arguments, message):
    (tmp_path / "texts.txt").write_text("text\n")
    arguments = [tmp_path / "texts.txt" if argument == "FILE" else argument for argument in arguments]
    assert potstill("predict", student, *arguments) == 2
    assert message in capsys.readouterr().err


def test_empty_text_argument_is_refused(student, capsys):
    assert potstill("predict", student, "--text", " ") == 1
    assert "--text:1: expected a text" in capsys.readouterr().err


def test_ctrl_c_can_be_resumed(student, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("potstill.predict.Classifier.answer", interrupted)
    file, out = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    file.write_text("the cat")
    assert potstill("predict", student, file, "--out", out) == 130
    assert "repeat the command to resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert potstill("predict", student, file, "--out", out) == 0
    assert len(out.read_text().splitlines()) == 1


def test_student_saved_again_during_loading_is_refused(student, tmp_path, monkeypatch, capsys):
    """What an interrupted command goes on with is known by the files' digest: it has to be that of what answers."""
    model = shutil.copytree(student, tmp_path / "model")
    load = Classifier.load

    def saved_meanwhile(*arguments, **options):
        classifier = load(*arguments, **options)
        with atomic_save(model) as staged:
            (staged / "more").touch()
        return classifier

    monkeypatch.setattr(Classifier, "load", saved_meanwhile)
    assert potstill("predict", model, "--text", "the cat") == 1
    assert "was saved again while it was read" in capsys.readouterr().err


def test_the_most_probable_classes_are_written(student, capsys):
    assert potstill("predict", student, "--text", "the cat", "--top-k", "1") == 0
    (answer,) = answers(capsys.readouterr().out)
    assert answer["probabilities"] == {answer["label"]: answer["probability"]}
    assert potstill("predict", student, "--text", "the cat", "--top-k", "5", "--output-format", "csv") == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    found = json.loads(row["probabilities"])
    assert (next(iter(found)), sorted(found)) == (row["label"], ["no", "yes"])
    assert potstill("predict", student, "--text", "the cat", "--top-k", "1", "--probabilities") == 2
    assert "give either --probabilities or --top-k" in capsys.readouterr().err
