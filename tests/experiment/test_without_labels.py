"""`potstill run` on texts without labels: the teacher gives them, and the report says so."""

import csv
import json

import pytest

from chat_server import chat_server, says
from commandline import SMALL_RUN, potstill
from potstill.predict import Classifier
from potstill.store.atomic import read_json

pytestmark = pytest.mark.usefixtures("no_plots")

NOTICE = "No human label was seen"
SMALL = (*SMALL_RUN, "--preset", "fast")
TEXTS = [
    f"the {noun} was {word} {count}"
    for word in ("great", "poor")
    for noun in ("food", "room", "staff", "view", "bath")
    for count in range(8)
]


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    with chat_server() as server:
        yield server


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS))
    return tmp_path / "texts.txt"


def test_a_server_labels_a_text_file_and_everything_says_that_no_human_did(server, texts, tmp_path, capsys):
    odd = {TEXTS[0], TEXTS[-1]}
    server.fail = lambda text, count: says("I can't say.") if text in odd else None
    given = (texts, "--classes", "good,bad", "--teacher", server.url, "--teacher-model", "tiny")
    assert potstill("run", *given, *SMALL, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr()
    assert NOTICE in printed.out
    assert "2 texts without an answer left out" in printed.err
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["data"]["labels_by_teacher"] is True
    assert summary["data"]["label_names"] == ["good", "bad"]
    assert sum(summary["data"][part] for part in ("train", "validation", "test")) == len(TEXTS) - 2
    roles = {model["role"] for model in summary["models"]}
    assert {"distilled", "baseline"} <= roles
    assert "teacher" not in roles  # it would be perfect
    assert summary["linear"]["metrics"]["accuracy"] == 1.0
    report = (tmp_path / "run" / "report.md").read_text()
    assert f"## Results\n\n**{NOTICE}:**" in report
    assert "it gave all labels, so it has no scores" in report
    assert NOTICE in (tmp_path / "run" / "report.html").read_text()
    rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").open()))
    assert all(row["label"] == ("good" if "great" in row["text"] else "bad") for row in rows)
    assert set(server.asked.values()) == {1}
    assert "Text: " in server.requests[0][1]["messages"][0]["content"]  # nothing is shown with a label
    assert len(server.requests[0][1]["messages"]) == 1

    assert potstill("export", tmp_path / "run", "--out", tmp_path / "model") == 0
    assert NOTICE in (tmp_path / "model" / "card.md").read_text()
    assert Classifier.load(tmp_path / "model").label_names == ("good", "bad")
    labelled = tmp_path / "labelled.csv"
    labelled.write_text(
        "\n".join(["text,label", *(f"{text},{'good' if 'great' in text else 'bad'}" for text in TEXTS)])
    )
    capsys.readouterr()
    assert potstill("evaluate", tmp_path / "run" / "distilled", "--data", labelled) == 0  # as its report advises
    assert f"all of {labelled}" in capsys.readouterr().out


def test_a_server_says_which_of_several_classes_apply(server, tmp_path, capsys):
    words = {"great": "good", "poor": "bad"}
    texts = [f"{text} {more}" for text in TEXTS[::2] for more in ("", *words)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    given = (tmp_path / "texts.txt", "--classes", "good,bad", "--multi-label", "--teacher", server.url)
    assert potstill("run", *given, "--teacher-model", "tiny", *SMALL, "--out", tmp_path / "run") == 0
    assert NOTICE in capsys.readouterr().out
    summary = read_json(tmp_path / "run" / "summary.json")
    assert (summary["data"]["labels_by_teacher"], summary["data"]["multi_label"]) == (True, True)
    assert set(server.asked.values()) == {1}
    rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").open()))
    for row in rows:
        assert json.loads(row["label"]) == [name for word, name in words.items() if word in row["text"]]


def test_a_file_of_probabilities_labels_columns_without_labels(texts, tmp_path, capsys):
    data, answers = tmp_path / "data.csv", tmp_path / "answers.jsonl"
    data.write_text("\n".join(["id,text", *(f"{number},{text}" for number, text in enumerate(TEXTS))]))
    likely = ({"text": text, "good": 0.9 if "great" in text else 0.2} for text in TEXTS)
    answers.write_text("\n".join(json.dumps(one | {"bad": 1 - one["good"]}) for one in likely))
    given = (data, "--classes", "bad,good", "--teacher", answers)
    assert potstill("run", *given, *SMALL, "--out", tmp_path / "run") == 0
    assert NOTICE in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "summary.json")["linear"]["metrics"]["accuracy"] == 1.0


def test_a_class_that_the_teacher_never_gives_is_named(server, texts, tmp_path, capsys):
    server.fail = lambda text, count: says("2")
    given = (texts, "--classes", "good,bad,odd", "--teacher", server.url, "--teacher-model", "tiny")
    assert potstill("run", *given, *SMALL, "--out", tmp_path / "run") == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "none of the training texts as 'good', 'odd'" in printed
    assert "teacher.descriptions" in printed


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (("run", "texts.txt"), "a text file holds no labels"),
        (
            ("run", "texts.txt", "--classes", "good,bad"),
            "without labels no teacher can be tuned; name one with --teacher",
        ),
        (("run", "texts.txt", "--classes", "good"), "expected a list of 2 or more"),
        (("run", "texts.txt", "--classes", "good,Good"), "classes must have different names"),
        (
            ("run", "labelled.csv", "--classes", "a,b", "--teacher", "answers.csv"),
            "--classes is for texts without labels",
        ),
        (("run", "clinc150:meta", "--classes", "a,b", "--teacher", "answers.csv"), "it is for texts without labels"),
        (
            ("train", "texts.txt", "--classes", "good,bad"),
            "this command needs labels; only `potstill run` works without",
        ),
        (("data", "texts.txt", "--classes", "good,bad"), "this command needs labels"),
        (("run", "texts.txt", "--teacher-model", "x"), "teacher.model: there is no such setting for this kind"),
    ],
)
def test_what_cannot_work_without_labels_is_refused_with_a_remedy(
    texts, tmp_path, monkeypatch, capsys, command, problem
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labelled.csv").write_text("\n".join(["text,label", *(f"text {n},{'ab'[n % 2]}" for n in range(40))]))
    (tmp_path / "answers.csv").write_text("text,a,b\ntext 1,0.5,0.5\n")
    out = () if command[0] == "data" else ("--out", "run")
    assert potstill(*command, *out) != 0
    assert problem in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
