"""Labelled texts that may have any number of labels: how they are written, read and split."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandline import potstill
from potstill.config import DataConfig, PotstillConfig
from potstill.data import UNLABELLED, Examples, load_corpus, read_examples
from potstill.data.clean import write_clean_copy
from potstill.data.encoded import (
    always,
    class_counts,
    correct,
    has_class,
    is_labelled,
    keys,
    majority_share,
    most_frequent,
    strata,
    unlabelled,
)
from potstill.data.readers import read_rows
from potstill.errors import ConfigError, DataError

ROWS = [("a", ["x", "y"]), ("b", []), ("c", ["y"]), ("d", ["x", "z, or w"])]
LISTS = {"multi_label": True}


def jsonl(path):
    path.write_text("".join(json.dumps({"text": text, "label": labels}) + "\n" for text, labels in ROWS))


def parquet(path):
    pq.write_table(pa.table({"text": [text for text, _ in ROWS], "label": [labels for _, labels in ROWS]}), path)


def array(path):
    path.write_text(json.dumps([{"text": text, "label": labels} for text, labels in ROWS]))


def pandas_csv(path):
    path.write_text("text,label\n" + "".join(f'{text},"{labels}"\n' for text, labels in ROWS))


def separated(path):
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{' | '.join(labels)}\n" for text, labels in ROWS))


def columns(path):
    names = ("x", "y", "z, or w")
    rows = ["\t".join([text, *(str(int(name in labels)) for name in names)]) for text, labels in ROWS]
    path.write_text("\n".join(["\t".join(["text", *names]), *rows]) + "\n")


@pytest.mark.parametrize(
    ("name", "write", "settings"),
    [
        ("a.jsonl", jsonl, LISTS),
        ("a.parquet", parquet, LISTS),
        ("a.json", array, LISTS),
        ("a.csv", pandas_csv, LISTS),
        ("a.tsv", separated, {"label_separator": "|"}),
        ("a.tsv", columns, {"label_columns": ("x", "y", "z, or w")}),
    ],
)
def test_every_way_of_writing_gives_the_same_rows(tmp_path, name, write, settings):
    write(tmp_path / name)
    rows = read_rows(tmp_path / name, DataConfig(**settings))
    assert [(row.text, list(row.labels)) for row in rows] == ROWS
    examples = read_examples(tmp_path / name, DataConfig(**settings), ("x", "y", "z, or w"))
    assert examples.labels.dtype == np.int8
    assert examples.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("x;y", ("x", "y")),
        (" x ; ; y;", ("x", "y")),
        ("x;x", ("x",)),
        (";", ()),
        ("", ()),
        ("[]", ()),
        ('"[""x"", ""y""]"', ("x", "y")),
    ],
)
def test_what_is_between_separators(tmp_path, cell, labels):
    (tmp_path / "a.csv").write_text(f"text,label\nfirst,{cell}\n")
    (row,) = read_rows(tmp_path / "a.csv", DataConfig(label_separator=";"))
    assert row.labels == labels


@pytest.mark.parametrize("cell", ["1", "1.0", "true", "True", "yes"])
def test_signs_of_a_class_in_its_column(tmp_path, cell):
    (tmp_path / "a.csv").write_text(f"text,x,y\nfirst,{cell},0\nsecond,false,{cell}\n")
    rows = read_rows(tmp_path / "a.csv", DataConfig(label_columns=("x", "y")))
    assert [row.labels for row in rows] == [("x",), ("y",)]


def test_numbers_in_lists_stay_numbers(tmp_path):
    lines = [{"text": f"t{number}", "label": [number % 3, 7]} for number in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    corpus = load_corpus(DataConfig(source=str(tmp_path / "a.jsonl"), **LISTS))
    assert (corpus.label_names, corpus.label_type) == (("0", "1", "2", "7"), "int")


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ('{"text": "a", "label": null}', LISTS, "'label' holds no labels\n.*an empty list"),
        ('{"text": "a", "label": ["x", null]}', LISTS, "holds no label"),
        ('{"text": "a", "label": ["x", ["y"]]}', LISTS, "neither a string nor"),
        ('{"text": "a", "x": 2}', {"label_columns": ("x",)}, "column 'x' holds 2, expected 0 or 1\n.*write 0 or 1"),
        ('{"text": "a", "x": "joy|love"}', {"label_columns": ("x",)}, "'joy|love', expected 0 or 1\n.*label-separator"),
        ('{"text": "a", "x": null}', {"label_columns": ("x",)}, "holds None, expected 0 or 1"),
        ('{"text": "a", "x": 1}', {"label_columns": ("x", "q")}, "there is no column 'q'.*'x'\n.*--label-columns"),
        ('{"text": "a", "label": ["x", "y"]}', {}, "2 labels, and a text has one class.*\n.*--multi-label"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_setting(tmp_path, content, settings, message):
    (tmp_path / "a.jsonl").write_text(content + "\n")
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "a.jsonl", DataConfig(**settings))


def test_unknown_labels_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nfirst,x;q\n")
    with pytest.raises(DataError, match=r"a\.csv:2: unknown label 'q'"):
        read_examples(tmp_path / "a.csv", DataConfig(label_separator=";"), ("x", "y"))
    with pytest.raises(DataError, match=r"unknown label 'x;q'.*\n.*of a text need --label-separator ';'"):
        read_examples(tmp_path / "a.csv", DataConfig(), ("x", "y"))


def test_texts_without_any_label_are_no_task(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,\nb,\nc,\n")
    with pytest.raises(DataError, match="no row has a label"):
        load_corpus(DataConfig(source=str(tmp_path / "a.csv"), label_separator=";"))


def written(tmp_path, count=200, separator="|", column="labels"):
    random = np.random.default_rng(0)
    names = ("joy", "love", "anger")
    rows = [
        f"text number {number},{separator.join(name for name in names if random.random() < 0.4) or 'joy'}"
        for number in range(count)
    ]
    (tmp_path / "a.csv").write_text("\n".join([f"text,{column}", *rows]) + "\n")
    return str(tmp_path / "a.csv")


def test_the_error_for_a_column_names_the_separator_too(tmp_path):
    with pytest.raises(DataError, match=r"--label-column labels --label-separator '\|'"):
        load_corpus(DataConfig(source=written(tmp_path)))
    lists = [{"text": "some text", "labels": ["x", "y"]}]
    (tmp_path / "b.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lists))
    with pytest.raises(DataError, match=r"--label-column labels --multi-label"):
        load_corpus(DataConfig(source=str(tmp_path / "b.jsonl")))


def test_the_warning_of_joined_labels_names_the_separator(tmp_path, capsys):
    assert potstill("data", written(tmp_path, separator=" & ", column="label")) == 0
    assert "add `--label-separator '&'`" in " ".join(capsys.readouterr().err.split())


def test_parts_keep_the_shares_of_every_class(tmp_path):
    corpus = load_corpus(DataConfig(source=written(tmp_path, 1000), label_column="labels", label_separator="|"))
    assert corpus.is_multi_label
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (810, 90, 100)
    whole = class_counts(corpus.everything.labels, 3) / 1000
    for part in (corpus.validation, corpus.test):
        np.testing.assert_allclose(class_counts(part.labels, 3) / len(part), whole, atol=0.08)


def test_a_class_of_one_text_is_learnt(tmp_path):
    source = written(tmp_path)
    with (tmp_path / "a.csv").open("a") as file:
        file.write("the only one,joy|grief\n")
    corpus = load_corpus(DataConfig(source=source, label_column="labels", label_separator="|"))
    assert class_counts(corpus.train.labels, 4)[corpus.label_names.index("grief")] == 1


def test_a_cleaned_copy_keeps_lists(tmp_path):
    rows = [("one", ["x", "y"]), ("One", ["y", "x"]), ("two", ["x"]), ("two", []), ("three", []), ("four", ["y"])]
    lines = (json.dumps({"text": text, "label": labels}) + "\n" for text, labels in rows)
    (tmp_path / "a.jsonl").write_text("".join(lines))
    counts = write_clean_copy(DataConfig(source=str(tmp_path / "a.jsonl"), **LISTS), tmp_path / "b.jsonl")
    kept = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [(row["text"], row["label"]) for row in kept] == [("one", ["x", "y"]), ("three", []), ("four", ["y"])]
    assert (counts["repeated"], counts["contradictory"]) == (1, 2)


def test_written_parts_are_read_again(tmp_path):
    source = written(tmp_path)
    flags = ("--label-column", "labels", "--label-separator", "|")
    assert potstill("data", source, *flags, "--write", tmp_path / "parts") == 0
    settings = {"label_column": "labels", "multi_label": True}
    again = load_corpus(DataConfig(source=str(tmp_path / "parts"), **settings))
    before = load_corpus(DataConfig(source=source, label_column="labels", label_separator="|"))
    assert again.key() == before.key()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_columns": ("x", "x")}, "must be different columns"),
        ({"label_columns": ("x", "text")}, "must be different columns"),
        ({"label_separator": ""}, "label_separator"),
        ({"classes": ("a", "b"), "label_separator": "|"}, "classes is for texts without labels.*multi_label says"),
        ({"classes": ("a", "b"), "label_columns": ("a", "b")}, "classes is for texts without labels"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PotstillConfig.build({"data": settings})


def test_data_of_single_labels_is_refused():
    with pytest.raises(ConfigError, match="the texts of clinc150 have one label each"):
        load_corpus(DataConfig(source="clinc150", multi_label=True))


def test_label_columns_stand_in_place_of_the_label_column():
    assert DataConfig(label_columns=("label", "x")).is_multi_label


SINGLE = np.array([0, 2, 1, UNLABELLED, 2])
MANY = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 0], [UNLABELLED] * 3, [0, 1, 1]], dtype=np.int8)


def test_arrays_of_both_tasks_answer_the_same_questions():
    assert is_labelled(SINGLE).tolist() == is_labelled(MANY).tolist() == [True, True, True, False, True]
    assert class_counts(SINGLE, 4).tolist() == [1, 1, 2, 0]
    assert class_counts(MANY, 3).tolist() == [1, 1, 3]
    assert has_class(SINGLE, 2).tolist() == [False, True, False, False, True]
    assert has_class(MANY, 2).tolist() == [True, True, False, False, True]
    assert most_frequent(SINGLE) == most_frequent(MANY) == 2
    assert (majority_share(SINGLE), majority_share(MANY)) == (0.4, 0.2)
    assert correct(MANY, always(2, MANY)).tolist() == [False, True, False, False, False]
    assert len(set(keys(MANY))) == 5


def test_strata_are_the_rarest_classes():
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 0, 1]], dtype=np.int8)
    assert strata(labels).tolist() == [1, 0, 2, 3, 2]
    assert strata(SINGLE[:3]).tolist() == [0, 2, 1]


@given(st.integers(1, 5), st.integers(1, 4))
def test_texts_without_labels_join_any_task(count, classes):
    many = Examples(("a",), np.ones((1, classes), dtype=np.int8))
    more = Examples(("b",) * count, np.full(count, UNLABELLED))
    joined = many.joined(more)
    assert joined.labels.shape == (1 + count, classes)
    assert not is_labelled(joined.labels[1:]).any()
    assert unlabelled(count, many.labels).dtype == np.int8


def test_examples_of_different_tasks_do_not_join():
    with pytest.raises(ValueError, match=re.escape("dimension")):
        Examples(("a",), np.ones((1, 2), dtype=np.int8)).joined(Examples(("b",), np.array([1])))
