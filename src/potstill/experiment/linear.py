"""The linear model that a student has to beat: TF-IDF of words and characters, and a support vector machine."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from potstill.data import Corpus, Examples
from potstill.data.splits import duplicate_groups
from potstill.evaluation import LinearResult, bootstrap_intervals, compute_metrics

if TYPE_CHECKING:
    from sklearn.pipeline import FeatureUnion, Pipeline

_BETWEEN: Final = " \u241e "  # a sign that no text is likely to hold
_BOUND: Final = {"max_features": 500_000}
"""Of many long texts only the most frequent features are used."""
_WORD: Final = re.compile(r"\w\w")
"""What scikit-learn's TF-IDF takes for a word begins with it; without any it raises an error."""
_MEASURED_SECONDS: Final = 0.1
_FOLDS: Final = 5
_CHECKED: Final = 20_000
"""Texts of which the labels are checked, at most: a minute's work where there are many classes."""


def fit_linear_svm(corpus: Corpus) -> Pipeline:
    """Fit a linear SVM on word 1- and 2-grams and character 2- to 5-grams (TF-IDF; Joachims 1998 for the SVM).

    It learns from the training and the validation split together, since it chooses nothing.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    known = corpus.train.joined(corpus.validation)
    texts = _joined(known)
    return make_pipeline(_features(texts), LinearSVC(random_state=0)).fit(texts, known.labels)


def _features(texts: Sequence[str]) -> FeatureUnion:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    features = [TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, **_BOUND)]
    if any(_WORD.search(text) for text in texts):
        features.append(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **_BOUND))
    return make_union(*features)


def suspicious_labels(examples: Examples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rank texts by how little a linear SVM that has not learnt from them finds their labels right.

    That is by the score of their own class, out of fold, as confident learning does by its probability (Northcutt et
    al. 2021, "Confident Learning", section 3). Repeated texts, classes with fewer texts than folds, and most of very
    many texts are left out.

    Returns:
        The most suspicious first, the indices of texts and the classes that they look like, (texts,). Both are empty
        where fewer than two classes are left.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.svm import LinearSVC

    places = np.unique(duplicate_groups(examples.items), return_index=True)[1]
    if len(places) > _CHECKED:
        places = np.random.default_rng(0).choice(places, _CHECKED, replace=False)
    sizes = np.bincount(examples.labels[places])
    places = np.sort(places[sizes[examples.labels[places]] >= _FOLDS])
    known, labels = np.unique(examples.labels[places], return_inverse=True)
    if len(known) < 2:
        return places[:0], known[:0]
    texts = _joined(examples.take(places))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    features, model = _features(texts).fit_transform(texts), LinearSVC(random_state=0)
    scores = cross_val_predict(model, features, labels, cv=folds, method="decision_function")  # (texts, classes)
    if len(known) == 2:  # (texts,)
        scores = np.stack([-scores, scores], axis=1)
    order = np.argsort(scores[np.arange(len(labels)), labels], kind="stable")
    return places[order], known[scores.argmax(axis=1)][order]


def measure_linear_svm(corpus: Corpus) -> tuple[LinearResult, NDArray[np.int64]]:
    """Fit a linear SVM and score it on the test split.

    Returns:
        What it is worth, and its answers, (texts,).
    """
    started = time.perf_counter()
    model = fit_linear_svm(corpus)
    fitted = time.perf_counter() - started
    texts, labels, classes = _joined(corpus.test), corpus.test.labels, corpus.num_classes
    answers: NDArray[np.int64] = model.predict(texts)
    started, passes, seconds = time.perf_counter(), 0, 0.0
    while seconds < _MEASURED_SECONDS:
        model.predict(texts)
        passes, seconds = passes + 1, time.perf_counter() - started
    parameters = int(model[-1].coef_.size + model[-1].intercept_.size)
    result = LinearResult(
        metrics=compute_metrics(labels, answers, classes),
        intervals=bootstrap_intervals(labels, answers, classes),
        parameters=parameters,
        bytes_on_disk=_bytes(model),
        train_seconds=fitted,
        texts_per_second=passes * len(texts) / seconds,
    )
    return result, answers


def _bytes(model: Pipeline) -> int:
    """Count what prediction needs: the features' names, the inverse frequency of each, and the weights."""
    names = model[0].get_feature_names_out()
    weights = model[-1].coef_
    return sum(len(name.encode("utf-8")) for name in names) + int(weights.itemsize * len(names) + weights.nbytes)


def _joined(examples: Examples) -> list[str]:
    if examples.pairs is None:
        return list(examples.texts)
    return [f"{first}{_BETWEEN}{second}" for first, second in zip(examples.texts, examples.pairs, strict=True)]
