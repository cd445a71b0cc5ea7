"""Texts with any number of labels, from the file to the saved student, through the same code as the real thing."""

import csv
import json
import random
import re

import numpy as np
import pytest
from sklearn.metrics import f1_score, label_ranking_loss

import potstill
from commandline import potstill as command
from commandline import train_small
from potstill.config import PotstillConfig, with_settings
from potstill.data import Examples, read_examples
from potstill.errors import ArtifactError, ConfigError
from potstill.evaluation import Summary
from potstill.evaluation.details import Details
from potstill.evaluation.measure import measure
from potstill.experiment.labelled import check_teacher
from potstill.experiment.saved import open_model
from potstill.export.bundle import export_student
from potstill.export.merged import write_merged
from potstill.predict import Classifier
from potstill.predict.decision import predict_class, sigmoid
from potstill.predict.directory import find_student
from potstill.teacher.transformer import TransformerTeacher

pytestmark = pytest.mark.usefixtures("no_plots")

NAMES = ("blue", "green", "red")
MARKS = dict(zip(("w1", "w2", "w3"), NAMES, strict=True))


def labelled_texts(count, seed=0):
    """Make texts of a few words, each with the labels of those of its words that have one: none, one or several.

    A twentieth of the labels are wrong.
    """
    choose = random.Random(seed)
    words = [*MARKS] * 3 + [f"w{number}" for number in range(4, 40)]
    texts = list(dict.fromkeys(" ".join(choose.sample(words, 6)) for _ in range(count)))
    return [
        (text, [name for word, name in MARKS.items() if (word in text.split()) != (choose.random() < 0.05)])
        for text in texts
    ]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "colours.csv"
    rows = [[text, ";".join(labels)] for text, labels in labelled_texts(500)]
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([["text", "label"], *rows])
    return path


@pytest.fixture(scope="module")
def config(file, tiny_backbone):
    return PotstillConfig.build(
        {
            "data": {"source": str(file), "label_separator": ";"},
            "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 2}, "seeds": [0, 1]},
            "distillation": {"teachers": "average"},
            "augment": {"words": 30, "spans": 60},
            "student": {
                "embedding_size": 16,
                "hidden_size": 16,
                "vocab_size": 300,
                "ngram_size": 8,
                "ngram_buckets": 1024,
                "max_size": 100,  # so that the n-grams are saved as a student, too
                "training": {"epochs": 12, "learning_rate": 0.01},
                "seeds": [0],
            },
        }
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    return potstill.run(config, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def corpus(config):
    return potstill.load_corpus(config.data)


@pytest.fixture(scope="module")
def student(finished):
    return find_student(finished[1])


def test_run_scores_label_sets(finished, corpus, student):
    summary, directory = finished
    assert {model.role for model in summary.models} == {"teacher", "distilled", "ngram", "baseline"}
    used = summary.recommended
    probabilities = Classifier.load(student).answer(corpus.test.texts)[0]
    answers = predict_class(probabilities, used.threshold)
    assert used.metrics.micro_f1 == pytest.approx(f1_score(corpus.test.labels, answers, average="micro"))
    assert used.metrics.f1 == pytest.approx(f1_score(corpus.test.labels, answers, average="macro"))
    assert used.metrics.accuracy == pytest.approx((answers == corpus.test.labels).all(axis=1).mean())
    assert used.metrics.ranking_loss == pytest.approx(label_ranking_loss(corpus.test.labels, probabilities))
    assert used.metrics.micro_f1 > 0.8  # one word decides each class
    assert summary.linear.metrics.micro_f1 > 0.8
    low, high = used.intervals["micro_f1"]
    assert low < used.metrics.micro_f1 < high
    assert Summary.from_json((directory / "summary.json").read_text()) == summary


def test_averaged_teachers_name_sets_by_their_mean_probabilities(finished, corpus, config):
    summary, directory = finished
    teachers = [TransformerTeacher.load(directory / "teacher" / f"seed-{seed}", config.runtime) for seed in (0, 1)]
    shares = np.mean([sigmoid(teacher.logits(corpus.test)) for teacher in teachers], axis=0)
    answers = predict_class(shares, tuple(np.mean([teacher.threshold for teacher in teachers], axis=0)))
    assert summary.ensemble.metrics.micro_f1 == pytest.approx(f1_score(corpus.test.labels, answers, average="micro"))


def test_report_speaks_of_label_sets(finished):
    _, directory = finished
    report, page = ((directory / name).read_text() for name in ("report.md", "report.html"))
    for written in (report, page):
        assert "micro-F1" in written
        assert "subset accuracy" in written
        assert "sign test over the texts" in written
        assert re.search(r"give each text any number of the classes .{0,9}blue", written)
    assert "Not searched: a text may have any number of labels." in page
    assert "Not known: a text may have any number of labels" in page


def test_abstention_is_refused(student, finished, capfd):
    for flags in (("--coverage", "0.9"), ("--max-error", "0.05"), ("--set-error", "0.1")):
        assert command("predict", student, "--text", "w1 w2", *flags) == 1
        assert "found a multi-label one, which can't abstain" in capfd.readouterr().err
    assert not any("--coverage" in (finished[1] / name).read_text() for name in ("report.html", "report.md"))


def test_page_shows_mistakes_as_sets(finished):
    details = Details.from_json((finished[1] / "details.json").read_text())
    assert details.confusion == ()
    for case in details.mistakes:
        assert case.label != case.answer
        assert {*case.label.split(", "), *case.answer.split(", ")} <= {*NAMES, "no class"}


def test_predictions_are_listed_as_json(finished, corpus):
    with (finished[1] / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [[NAMES[index] for index in np.flatnonzero(row)] for row in corpus.test.labels]
    assert [json.loads(row["label"]) for row in rows] == expected
    assert set(rows[0]) == {
        *("text", "label", "teacher 0", "teacher 1", "distilled 0", "ngram 0", "baseline 0", "linear")
    }


def test_saved_student_predicts_lists(student):
    classifier = Classifier.load(student)
    assert classifier.task == "multi-label"
    assert json.loads((student / "student.json").read_text())["task"] == "multi-label"
    texts = ["w1 w5 w6 w7 w8 w9", "w3 w2 w10 w11 w12 w13", "w20 w21 w22 w23 w24 w25"]
    assert classifier.predict(texts) == [["blue"], ["green", "red"], []]
    probabilities = classifier.predict_proba(texts)
    assert probabilities[1].sum() > 1.2  # of each class by itself
    assert np.allclose(probabilities, sigmoid(classifier.logits(texts), classifier.temperature), atol=1e-6)


def test_teacher_names_classes_by_its_own_thresholds(finished, config, corpus):
    directory = finished[1] / "teacher" / f"seed-{finished[0].teacher_seed}"
    teacher = TransformerTeacher.load(directory, config.runtime)
    assert len(teacher.threshold) == 3
    assert teacher.threshold != (0.5, 0.5, 0.5)
    measured = measure(teacher, corpus.test)
    assert measured.metrics == finished[0].teacher.metrics
    before = dict(zip(teacher.label_names, teacher.threshold, strict=True))
    teacher.reorder(NAMES[::-1])
    assert dict(zip(teacher.label_names, teacher.threshold, strict=True)) == before
    assert np.allclose(teacher.logits(corpus.test)[:, ::-1], measured.logits, atol=1e-5)


def test_merged_teacher_says_that_it_is_multi_label(finished, tmp_path):
    write_merged(finished[1] / "teacher" / "seed-0", tmp_path / "merged")
    settings = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert settings["problem_type"] == "multi_label_classification"
    assert list(settings["label2id"]) == [*NAMES]


def test_search_compares_label_sets(finished, config, corpus, tmp_path):
    pytest.importorskip("optuna")
    from potstill.experiment.search import search

    teacher = TransformerTeacher.load(finished[1] / "teacher" / "seed-0", config.runtime)
    settings = with_settings(config, {"search.trials": 2, "student.training.epochs": 2})
    result, _ = search(settings, corpus, teacher, tmp_path / "search")
    assert [trial.mcc > 0 for trial in result.trials] == [True, True]


def test_exported_student_answers_alike(student, tmp_path):
    export_student(student, tmp_path / "out", "onnx")
    texts = [text for text, _ in labelled_texts(20, seed=1)]
    assert Classifier.load(tmp_path / "out").predict(texts) == Classifier.load(student).predict(texts)
    card = (tmp_path / "out" / "card.md").read_text()
    assert "sigmoid(logits" in card
    assert "any number of them" in card


def test_commands_read_and_write_lists(finished, student, file, tmp_path, capfd):
    assert command("predict", student, "--text", "w1 w2 w9 w8 w7 w6") == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["labels"] == ["blue", "green"]
    assert set(answer["probabilities"]) == {"blue", "green"}
    assert command("predict", finished[1] / "teacher" / "seed-0", "--text", "w1 w2 w9 w8 w7 w6") == 0
    answer = json.loads(capfd.readouterr().out)
    assert set(answer["labels"]) == set(answer["probabilities"]) <= set(NAMES)
    assert command("predict", student, file, "--out", tmp_path / "answers.csv", "--probabilities") == 0
    with (tmp_path / "answers.csv").open(newline="") as answers:
        rows = list(csv.DictReader(answers))
    assert list(rows[0])[-4:] == ["labels", "probability_blue", "probability_green", "probability_red"]
    assert json.loads(rows[0]["labels"]) == Classifier.load(student).predict([rows[0]["text"]])[0]
    capfd.readouterr()
    assert command("evaluate", finished[1]) == 0
    assert "sign test over the texts" in " ".join(capfd.readouterr().out.split())
    assert command("evaluate", student, "--data", file, "--json") == 0
    scored = json.loads(capfd.readouterr().out)["models"][0]
    assert scored["metrics"]["micro_f1"] > 0.8
    assert command("runs", finished[1]) == 0
    assert "micro-F1" in capfd.readouterr().out
    assert command("doctor", finished[1]) == 0
    assert "any of blue, green, red" in " ".join(capfd.readouterr().out.split())


def test_answers_of_predict_are_labelled_data_again(student, tmp_path):
    texts = [text for text, _ in labelled_texts(50, seed=2)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    assert command("predict", student, tmp_path / "texts.txt", "--out", tmp_path / "answers.csv") == 0
    config = PotstillConfig.build({"data": {"label_column": "labels", "multi_label": True}}).data
    examples = read_examples(tmp_path / "answers.csv", config, NAMES)
    assert [[NAMES[i] for i in np.flatnonzero(row)] for row in examples.labels] == Classifier.load(student).predict(
        texts
    )


def test_pairs_of_texts_may_have_several_labels(tmp_path, capfd):
    pairs = [(text[:9], text[9:], ";".join(labels)) for text, labels in labelled_texts(80)]
    rows = ["text,pair,label", *(",".join(row) for row in pairs)]
    student = train_small(tmp_path, rows, "--pair-column", "pair", "--label-separator", ";")
    assert Classifier.load(student).in_pairs
    answers = Classifier.load(student).predict([(first, second) for first, second, _ in pairs])
    assert all(set(given) <= set(NAMES) for given in answers)
    capfd.readouterr()
    assert command("predict", student, "--text", "w1 w4\tw2 w5") == 0
    assert set(json.loads(capfd.readouterr().out)) == {"line", "text", "pair", "labels", "probabilities", "truncated"}


def test_data_counts_each_label(file, corpus, capfd):
    assert command("data", file, "--label-separator", ";") == 0
    printed = capfd.readouterr().out
    for index, name in enumerate(NAMES):
        assert f"{name}: {corpus.train.labels[:, index].sum()} train" in printed
    assert "repeated texts with other labels: none" in printed
    numbers = corpus.everything.labels.sum(axis=1)
    shown = ", ".join(f"{number}: {(numbers == number).sum()}" for number in range(numbers.max() + 1))
    assert f"labels of a text: {shown}" in printed


def test_model_and_data_of_other_tasks_are_refused(student, finished, config, corpus, tmp_path):
    single = Examples(("w1", "w2"), np.array([0, 1]))
    with pytest.raises(ArtifactError, match=r"names any number of classes.*, the data.*one class.*\n.*--multi-label"):
        measure(open_model(student, config.runtime), single)
    teacher = TransformerTeacher.load(finished[1] / "teacher" / "seed-0", config.runtime)
    teacher.threshold = None
    with pytest.raises(ArtifactError, match="names one class for each text, the data holds any number"):
        check_teacher(corpus, teacher)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": {"sampled": 100}}, "sampled: texts are written for one class each"),
    ],
)
def test_what_is_for_single_labels_is_refused_before_the_work(config, settings, message, tmp_path):
    given = {"data": config.data.model_dump(), "teacher": {"backbone": config.teacher.backbone}} | settings
    with pytest.raises(ConfigError, match=message):
        potstill.run(PotstillConfig.build(given), tmp_path / "run")
    assert not (tmp_path / "run").exists()
