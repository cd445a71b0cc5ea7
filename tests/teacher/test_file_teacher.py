"""A file of probabilities as a teacher."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import softmax

from commandline import SMALL_RUN, potstill
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import DataConfig, PotstillConfig
from potstill.data import UNLABELLED, Examples, load_corpus
from potstill.data.tokenised import Batch
from potstill.distillation import Distillation
from potstill.errors import DataError
from potstill.evaluation.measure import measure
from potstill.experiment.stages import distill, finetune
from potstill.predict import Classifier
from potstill.predict.decision import sigmoid
from potstill.store.atomic import read_json
from potstill.teacher.file import FileConfig, FileTeacher

pytestmark = pytest.mark.usefixtures("no_plots")

CLASSES = ("bad", "good")


def teacher_of(tmp_path, content, suffix=".csv", label_names=CLASSES, pair_column=None, **settings) -> FileTeacher:
    path = tmp_path / f"answers{suffix}"
    path.write_text(content)
    return FileTeacher(FileConfig(file=str(path), **settings), DataConfig(pair_column=pair_column), label_names)


def asked(teacher, *texts, pairs=None):
    return softmax(teacher.logits(Examples(texts, np.full(len(texts), UNLABELLED), pairs)), axis=1)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".csv", 'text,good,bad\n" a, b ",0.75,0.25\n12,0.1,0.9\n'),
        (".csv", '\ufeffid;text;good;bad\n1;"a, b";0.75;0.25\n2;12;0.1;0.9\n'),
        (".tsv", "bad\tgood\ttext\n0.25\t0.75\ta, b\n0.9\t0.1\t12\n"),
        (".jsonl", '{"text": "a, b", "good": 0.75, "bad": 0.25}\n{"text": "12", "good": 0.1, "bad": 0.9}\n'),
        (".csv", 'text,label,confidence\n"a, b",good,0.75\n12,bad,0.9\n'),
        (".json", '[{"text": "a, b", "good": "0.75", "bad": 0.25}, {"text": "12", "good": "0.1", "bad": 0.9}]'),
    ],
)
def test_answers_are_found_by_text_and_class_names(tmp_path, suffix, content):
    teacher = teacher_of(tmp_path, content, suffix)
    np.testing.assert_allclose(asked(teacher, "a, b", "12"), [[0.25, 0.75], [0.9, 0.1]], rtol=1e-6)
    assert np.isnan(asked(teacher, "another")).all()


def test_classes_may_be_numbers_and_texts_pairs(tmp_path):
    content = "text,other,0,1\nx,y,1,0\nx,z,0.5,0.5\n"
    teacher = teacher_of(tmp_path, content, label_names=("0", "1"), pair_column="other")
    found = asked(teacher, "x", "x", "x", pairs=("z", "y", "w"))
    np.testing.assert_allclose(found[:2], [[0.5, 0.5], [1, 0]], atol=1e-6)
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".csv", "text,True,False\nx,0.75,0.25\n"),
        (".jsonl", '{"text": "x", "label": true, "confidence": 0.75}\n'),
        (".csv", "text,label,probability,probability_false,probability_true\nx,true,0.75,0.25,0.75\n"),
        (".csv", "text,label,probability\nx,true,0.75\n"),
    ],
    ids=["columns in pandas' spelling", "truth values", "potstill predict --probabilities", "potstill predict"],
)
def test_truth_values_and_potstills_own_answers_are_read(tmp_path, suffix, content):
    teacher = teacher_of(tmp_path, content, suffix, label_names=("false", "true"))
    np.testing.assert_allclose(asked(teacher, "x"), [[0.25, 0.75]], rtol=1e-6)


def test_a_column_for_each_class_goes_before_a_label(tmp_path):
    teacher = teacher_of(tmp_path, "text,label,confidence,bad,good\nx,bad,0.9,0.4,0.6\n")
    np.testing.assert_allclose(asked(teacher, "x"), [[0.4, 0.6]], rtol=1e-6)


def test_the_least_confidence_is_that_of_the_label_where_there_is_one(tmp_path, capsys):
    content = "text,label,confidence\nx,bad,0.3\nx,good,0.9\ny,bad,0.3\n"
    teacher = teacher_of(tmp_path, content, min_confidence=0.6)
    found = asked(teacher, "x", "y")
    np.testing.assert_allclose(found[0], [0.1, 0.9], rtol=1e-5)
    assert np.isnan(found[1]).all()
    assert "2 labels are less certain than any other class would be" in " ".join(capsys.readouterr().err.split())


def test_rows_of_one_text_are_averaged_as_several_annotators(tmp_path):
    content = "text,label,confidence\nx,good,1\nx,good,1\nx,bad,1\ny,bad,0.8\n"
    np.testing.assert_allclose(asked(teacher_of(tmp_path, content), "x", "y"), [[1 / 3, 2 / 3], [0.8, 0.2]], rtol=1e-5)


def test_answers_below_the_least_confidence_count_as_none(tmp_path):
    teacher = teacher_of(tmp_path, "text,bad,good\nx,0.55,0.45\ny,0.1,0.9\n", min_confidence=0.6)
    assert np.isnan(asked(teacher, "x", "y")).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("text,bad,good\n", "there are no rows"),
        ("text,bad\nx,0.5\n", "there is no column for 'good'"),
        ("body,bad,good\nx,0.5,0.5\n", "there is no column 'text'"),
        ("text,bad,good\nx,2.5,-1.5\n", "1 rows hold no probabilities, the first in row 1: 2.5, -1.5"),
        ("text,bad,good\nx,0.5,0.5\ny,60,40\n", "the first in row 2: 60, 40"),
        ("text,bad,good\nx,high,low\n", "column 'bad' holds values that are no numbers"),
        ("text,bad,good\nx,,1\ny,0.5,0.5\n", "column 'bad' holds no number in row 1"),
        ("text,label,confidence\nx,ugly,0.5\n", "expected the classes 'bad', 'good', found 'ugly'"),
        ("text,label,confidence\nx,bad,80\n", "column 'confidence' holds values that are not between 0 and 1"),
    ],
)
def test_what_is_no_probability_is_refused_with_its_place(tmp_path, content, problem):
    with pytest.raises(DataError) as error:
        teacher_of(tmp_path, content)
    assert problem in str(error.value)
    assert "what to do: " in str(error.value)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"expected a \.csv, \.tsv, \.jsonl or \.parquet file, found the suffix '\.xls'"
    ):
        teacher_of(tmp_path, "", ".xls")


def test_the_key_follows_the_answers(tmp_path):
    keys = {teacher_of(tmp_path, f"text,bad,good\nx,{p},{1 - p}\n").key for p in (0.25, 0.25, 0.5)}
    assert len(keys) == 2


def test_a_text_without_an_answer_teaches_by_its_label_alone():
    logits = torch.tensor([[0.3, -0.2], [1.0, 0.5]], requires_grad=True)
    teacher, labels = torch.tensor([[2.0, 1.0], [torch.nan, torch.nan]]), torch.tensor([0, 1])

    def losses(rows):
        mask = torch.ones(len(rows), 1)
        targets = Batch(mask.long(), mask.long(), labels[rows], teacher[rows])
        return Distillation(alpha=0.25)(logits[rows], targets)

    both, first, second = losses([0, 1]), losses([0]), losses([1])
    assert second["loss"] == second["ce"]
    assert both["loss"].item() == pytest.approx((first["loss"] + second["loss"]).item() / 2)
    assert both["kl"] == first["kl"]
    both["loss"].backward()
    assert logits.grad.isfinite().all()


def test_missing_answers_are_scored_as_the_usual_one(tmp_path):
    teacher = teacher_of(tmp_path, "text,bad,good\nx,0.1,0.9\n")
    measured = measure(teacher, Examples(("x", "y"), np.array([1, 0])))
    assert measured.predictions.tolist() == [1, 1]


def test_a_file_of_a_teachers_answers_teaches_the_same_student(tiny_backbone, tmp_path):
    student = {"embedding_size": 2, "hidden_size": 8, "training": {"epochs": 2}}
    student |= {"embedding_init": "teacher", "tokenizer": "teacher"}
    config = PotstillConfig.build(
        {
            "data": {"source": "builtin", "max_train_examples": 80},
            "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 1}},
            "student": student,
        }
    )
    corpus = load_corpus(config.data)
    teacher, _ = finetune(config, corpus, tmp_path / "teacher")
    texts = corpus.train.joined(corpus.validation)
    columns = dict(zip(corpus.label_names, teacher.logits(texts).T, strict=True))
    pq.write_table(pa.table({"sentence": texts.texts} | columns), tmp_path / "logits.parquet")
    settings = FileConfig(file=str(tmp_path / "logits.parquet"), values="logits", backbone=str(tiny_backbone))
    from_file = FileTeacher(settings, DataConfig(text_column="sentence"), corpus.label_names)
    for name, one in (("model", teacher), ("file", from_file)):
        distill(config, corpus, one, tmp_path / name)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "file"))
    assert first == second


def test_run_learns_from_a_file_and_from_its_other_texts(tmp_path):
    words = {"good": ("fine", "great", "lovely"), "bad": ("bad", "poor", "awful")}
    texts = {
        f"the {noun} was {word} {count}": label
        for label, all_words in words.items()
        for word in all_words
        for noun in ("food", "room", "staff", "view")
        for count in range(4)
    }
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *map(",".join, texts.items())]))
    answers = {text: 0.9 if label == "good" else 0.1 for text, label in texts.items()}
    answers |= {f"{word} {noun}": 0.95 for word in words["good"] for noun in ("beds", "bath", "pool")}
    lines = [json.dumps({"text": text, "good": good, "bad": 1 - good}) for text, good in answers.items()]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines))
    given = (tmp_path / "reviews.csv", "--teacher", tmp_path / "answers.jsonl", *SMALL_RUN)
    assert potstill("run", *given, "--out", tmp_path / "run") == 0
    summary = read_json(tmp_path / "run" / "summary.json")
    teacher = next(model for model in summary["models"] if model["role"] == "teacher")
    assert teacher["metrics"]["accuracy"] == 1.0
    assert "answers.jsonl" in teacher["description"]
    assert summary["unlabelled"]["file"] == 9
    assert Classifier.load(tmp_path / "run" / "distilled" / "seed-0").label_names == ("bad", "good")


def test_a_file_that_answers_no_other_texts_needs_no_unlabelled_set(tmp_path):
    rows = [(f"number {place} is {'even' if place % 2 == 0 else 'odd'}", place % 2) for place in range(60)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in rows)]))
    answers = [f"{text},{1 - label},{label}" for text, label in rows[:50]]
    (tmp_path / "answers.csv").write_text("\n".join(["text,0,1", *answers]))
    given = (tmp_path / "data.csv", "--teacher", tmp_path / "answers.csv", *SMALL_RUN)
    assert potstill("run", *given, "--out", tmp_path / "run") == 0


def test_a_set_without_any_answer_is_saved_and_read(tmp_path):
    texts = UnlabelledSet(("x", "y"), None, ("file:a", "file:a"), {})
    labelled = texts.labelled(np.full((2, 3), np.nan, np.float32), "key").answered()
    labelled.save(tmp_path / "unlabelled.parquet")
    found = UnlabelledSet.load(tmp_path)
    assert (len(found), found.logits.shape, found.dropped) == (0, (0, 3), {"unanswered": 2})


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ("text,bad,good\nx,0.75,0.5\nx,0.25,0.5\ny,0,1\n", {}),
        ("text,label,confidence\nx,bad,0.5\nx,good,0.5\ny,good,1\n", {"multi_label": True}),
        ("text,label,confidence\nx,bad|good,0.5\ny,good,1\n", {}),
        ("text,label,confidence\nx,\"['bad', 'good']\",\"[0.5, 0.5]\"\ny,good,1\n", {"multi_label": True}),
    ],
)
def test_each_class_of_several_has_a_probability_of_its_own(tmp_path, content, settings):
    data = DataConfig(**(settings or {"label_separator": "|"}))
    (tmp_path / "answers.csv").write_text(content)
    teacher = FileTeacher(FileConfig(file=str(tmp_path / "answers.csv")), data, CLASSES)
    found = teacher.logits(Examples(("x", "y", "z"), np.full((3, 2), UNLABELLED)))
    np.testing.assert_allclose(sigmoid(found[:2]), [[0.5, 0.5], [0, 1]], atol=1e-6)
    assert np.isnan(found[2]).all()
    assert teacher.threshold == (0.5, 0.5)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("text,bad,good\nx,0.75,1.5\n", "1 rows hold no probabilities, the first in row 1: 0.75, 1.5"),
        ("text,label,confidence\nx,bad|good,0.5|0.2|0.1\n", "row 1 has 2 labels, and 3 values in 'confidence'"),
        ("text,label,confidence\nx,bad|ugly,0.5\n", "found 'ugly'"),
        ("text,label,confidence\nx,bad,50\n", "not between 0 and 1"),
    ],
)
def test_what_says_nothing_of_several_labels_is_refused(tmp_path, content, problem):
    (tmp_path / "answers.csv").write_text(content)
    with pytest.raises(DataError, match=problem):
        FileTeacher(FileConfig(file=str(tmp_path / "answers.csv")), DataConfig(label_separator="|"), CLASSES)


def test_a_file_teaches_texts_with_several_labels(tmp_path, capsys):
    words = {"red": "a", "blue": "b"}
    texts = [f"{'red' * (n % 2)} {'blue' * (n % 3 == 0)} text {n}" for n in range(60)]
    labels = [[label for word, label in words.items() if word in text] for text in texts]
    data, answers = ["text,label"], ["text,a,b"]
    for text, names in zip(texts, labels, strict=True):
        data.append(f"{text},{'|'.join(names)}")
        answers.append(",".join([text, *(str(0.9 if name in names else 0.1) for name in words.values())]))
    for name, rows in (("data.csv", data), ("answers.csv", answers)):
        (tmp_path / name).write_text("\n".join(rows))
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "student: {embedding_size: 4, hidden_size: 4, vocab_size: 300, ngram_size: 4, ngram_buckets: 256, seeds: [0], "
        "embedding_init: random, training: {epochs: 1, min_steps: 1}}"
    )
    given = ("--config", config, "--label-separator", "|", "--teacher", tmp_path / "answers.csv")
    assert potstill("run", tmp_path / "data.csv", *given, "--out", tmp_path / "run") == 0
    assert "100.0% of its answers to validation texts agree with the labels" in capsys.readouterr().err
    teacher = next(one for one in read_json(tmp_path / "run" / "summary.json")["models"] if one["role"] == "teacher")
    assert teacher["metrics"]["accuracy"] == 1.0
    examples = Examples(tuple(texts), np.zeros(len(texts), dtype=np.int64))
    for least, is_sure in ((0.8, True), (0.82, False)):  # 0.9 * 0.9 for both labels together
        settings = FileConfig(file=str(tmp_path / "answers.csv"), min_confidence=least)
        found = FileTeacher(settings, DataConfig(label_separator="|"), ("a", "b")).logits(examples)
        assert (np.isfinite(found) == is_sure).all()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--words", "5"), "augment.words: a teacher that is a file has no answers to texts that are made"),
        (("--teacher-epochs", "2"), "teacher.training: there is no such setting for this kind of teacher"),
        (("--teacher", "."), "expected a file, found a directory"),
        (("--teacher", "no.csv"), "there is no such file"),
    ],
)
def test_what_a_file_cannot_do_is_refused_at_once(tmp_path, capsys, flags, problem):
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *(f"text {n},{'ab'[n % 2]}" for n in range(40))]))
    (tmp_path / "answers.csv").write_text("text,a,b\ntext 1,0.5,0.5\n")
    given = (tmp_path / "data.csv", "--teacher", tmp_path / "answers.csv", *flags, "--out", tmp_path / "run")
    assert potstill("run", *given) != 0
    assert problem in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
def test_presets_leave_out_what_a_file_has_no_use_for(preset):
    config = PotstillConfig.build(
        {"preset": preset, "teacher": {"kind": "file", "file": "a.csv"}, "augment": {"files": ["more.txt"]}}
    )
    assert config.teacher.seeds == (0,)
    assert config.augment.files == ("more.txt", "a.csv")
    assert config.augment.most_made(in_pairs=False) == 0
