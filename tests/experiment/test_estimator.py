"""`PotstillClassifier` as scikit-learn's tools use a classifier."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from potstill import Classifier, PotstillClassifier
from potstill.errors import DataError

pytestmark = pytest.mark.usefixtures("no_plots")

GOOD, BAD = ("fine", "great", "lovely"), ("bad", "poor", "awful")
TEXTS = [
    f"the {noun} was {word} {count}"
    for word in (*GOOD, *BAD)
    for noun in ("food", "room", "staff", "view")
    for count in range(3)
]
LABELS = [int(any(word in text for word in GOOD)) for text in TEXTS]
TINY = {
    "embedding_size": 8,
    "hidden_size": 8,
    "vocab_size": 300,
    "seeds": [0],
    "training": {"epochs": 20, "min_steps": 1, "learning_rate": 0.02},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Small networks, and a file for a teacher: no language model is tuned."""
    file = tmp_path_factory.mktemp("teacher") / "answers.csv"
    rows = [f"{text},{0.9 - 0.8 * label},{0.1 + 0.8 * label}" for text, label in zip(TEXTS, LABELS, strict=True)]
    file.write_text("\n".join(["text,0,1", *rows]))
    student = TINY | {"embedding_init": "random", "ngram_buckets": 1024}
    return {"teacher": {"kind": "file", "file": str(file)}, "student": student}


@pytest.fixture(scope="module")
def brief(settings):
    """The same, for fits whose scores do not matter."""
    return settings | {"student": settings["student"] | {"training": {"epochs": 1, "min_steps": 1}}}


@pytest.fixture(scope="module")
def settings_of_many(settings, tiny_backbone):
    """The same with a tiny language model: no file teaches texts with several labels."""
    teacher = {"backbone": str(tiny_backbone), "training": {"epochs": 1, "min_steps": 1}}
    student = settings["student"] | {"training": TINY["training"] | {"epochs": 40}}
    return {
        "teacher": teacher,
        "student": student,
        "augment": {"words": 0, "spans": 10},
        "distillation": {"alpha": 0.9},
    }


@pytest.fixture(scope="module")
def fitted(settings):
    return PotstillClassifier(settings=settings, verbose=False).fit(TEXTS, LABELS)


def test_it_learns_and_answers_with_the_labels_it_was_given(fitted):
    assert fitted.classes_.tolist() == [0, 1]
    assert fitted.predict(TEXTS).dtype == np.int64
    assert fitted.score(TEXTS, LABELS) > 0.9
    probabilities = fitted.predict_proba(TEXTS[:3])
    assert probabilities.shape == (3, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert "Did it pay?" in fitted.report_


def test_a_silent_fit_prints_nothing_and_keeps_its_run_where_told(brief, tmp_path, capfd):
    PotstillClassifier(settings=brief, directory=tmp_path / "run", verbose=False).fit(TEXTS, LABELS)
    assert "step" not in capfd.readouterr().err
    assert (tmp_path / "run" / "report.md").is_file()


@pytest.mark.parametrize(
    "column",
    [np.array(TEXTS), np.array(TEXTS, dtype=object)[:, None], tuple(TEXTS), iter(TEXTS)],
    ids=["array", "column", "tuple", "iterator"],
)
def test_texts_come_in_any_form(fitted, column):
    np.testing.assert_array_equal(fitted.predict(column), fitted.predict(TEXTS))


def test_a_table_of_one_column_is_read_and_one_of_several_is_refused(fitted):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": TEXTS})
    np.testing.assert_array_equal(fitted.predict(table), fitted.predict(TEXTS))
    np.testing.assert_array_equal(fitted.predict(table["text"]), fitted.predict(TEXTS))
    with pytest.raises(TypeError, match="give one of its columns"):
        fitted.predict(table.assign(other=1))
    with pytest.raises(TypeError, match="give one of its columns"):
        PotstillClassifier().fit(table.assign(other=1), LABELS)


def test_it_is_cloned_pickled_saved_and_loaded(fitted, tmp_path):
    with pytest.raises(NotFittedError):
        clone(fitted).predict(TEXTS)
    assert clone(fitted).get_params() == fitted.get_params()
    expected = fitted.predict_proba(TEXTS)
    fitted.save(tmp_path / "model")
    for other in (
        pickle.loads(pickle.dumps(fitted)),
        PotstillClassifier.load(tmp_path / "model"),
        Classifier.load(tmp_path / "model"),
    ):
        np.testing.assert_array_equal(other.predict_proba(TEXTS), expected)


def test_scikit_learns_tools_use_it(settings, brief):
    classifier = PotstillClassifier(settings=settings, verbose=False)
    split = [(list(range(0, len(TEXTS), 2)), list(range(1, len(TEXTS), 2)))]
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    assert cross_val_score(make_pipeline(lower, classifier), TEXTS, LABELS, cv=split).mean() > 0.6
    classifier = PotstillClassifier(settings=brief, verbose=False)
    search = GridSearchCV(classifier, {"preset": ["fast"]}, cv=split, refit=False).fit(TEXTS, LABELS)
    assert search.best_params_ == {"preset": "fast"}
    calibrated = CalibratedClassifierCV(classifier, cv=split).fit(TEXTS, LABELS)
    assert calibrated.predict_proba(TEXTS).shape == (len(TEXTS), 2)


def test_what_cannot_be_learnt_is_refused(settings):
    classifier = PotstillClassifier(settings=settings, verbose=False)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier.fit(TEXTS, LABELS[:-1])
    with pytest.raises(TypeError, match="put a single text in a list"):
        classifier.fit("a text", [1])
    with pytest.raises(DataError, match="all rows have the label"):
        classifier.fit(TEXTS, [1] * len(TEXTS))
    with pytest.raises(ValueError, match=r"y\[1\] is missing"):
        classifier.fit(TEXTS[:2], [1, None])
    with pytest.raises(ValueError, match=r"y\[0\] is missing"):
        classifier.fit(TEXTS[:2], [float("nan"), "a"])
    with pytest.raises(ValueError, match=r"X\[1\] is an empty text"):
        classifier.fit(["a", " "], [0, 1])
    with pytest.raises(ValueError, match="labels that are all strings, all whole numbers"):
        classifier.fit(TEXTS[:2], [1, "a"])


SEVERAL = [[word for word in (*GOOD, *BAD, "food", "room") if f" {word} " in text] for text in TEXTS]


def test_lists_of_labels_are_learnt_and_answered_with(settings_of_many):
    fitted = PotstillClassifier(settings=settings_of_many, verbose=False).fit(TEXTS, map(set, SEVERAL))
    assert fitted.classes_.tolist() == sorted({*GOOD, *BAD, "food", "room"})
    answers = fitted.predict(TEXTS)
    assert np.mean([sorted(given) == sorted(right) for given, right in zip(answers, SEVERAL, strict=True)]) > 0.8
    assert fitted.predict_proba(TEXTS).sum(axis=1).max() > 1.2
    assert pickle.loads(pickle.dumps(fitted)).predict(TEXTS) == answers


def test_an_indicator_matrix_is_learnt(settings_of_many):
    matrix = np.array([[word in labels for word in ("food", "room", *BAD)] for labels in SEVERAL])
    fitted = PotstillClassifier(settings=settings_of_many, verbose=False).fit(TEXTS, matrix)
    assert fitted.classes_.tolist() == [0, 1, 2, 3, 4]
    found = np.array([[index in given for index in range(5)] for given in fitted.predict(TEXTS)])
    assert (found == matrix).mean() > 0.9
    with pytest.raises(ValueError, match="matrix of 0 and 1"):
        PotstillClassifier(settings=settings_of_many).fit(TEXTS, 2 * matrix)


def test_labels_of_which_only_some_are_lists_are_refused():
    with pytest.raises(ValueError, match=r"y\[0\]: expected a list of labels, as others are, found 'sport'"):
        PotstillClassifier(verbose=False).fit(["a", "b"], ["sport", ["sport", "news"]])


def test_score_of_several_labels_is_the_share_of_texts_with_just_these():
    classifier = PotstillClassifier()
    classifier.predict = lambda texts: [["b", "a"], ["a"], []][: len(texts)]
    assert classifier.score(["x", "y", "z"], [["a", "b"], ["b"], []]) == pytest.approx(2 / 3)
    assert classifier.score(["x", "y", "z"], [["a", "b"], ["b"], []], [1, 2, 1]) == pytest.approx(1 / 2)
