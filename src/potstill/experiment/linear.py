"""The linear model that a student has to beat: TF-IDF of words and characters, and a support vector machine.

Where a text may have any number of classes, each class has a machine of its own (one-vs-rest), and a threshold that is
chosen as a student's is.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from potstill.data import Corpus, Examples
from potstill.data.splits import duplicate_groups
from potstill.evaluation import LinearResult, bootstrap_intervals, compute_metrics, mcnemar
from potstill.evaluation.calibration import fit_temperature, fit_thresholds
from potstill.evaluation.details import Case, LearningCurve, cases
from potstill.predict.decision import predict_class, sigmoid, softmax

if TYPE_CHECKING:
    from sklearn.pipeline import FeatureUnion, Pipeline

_BETWEEN: Final = " \u241e "  # a sign that no text is likely to hold
_BOUND: Final = {"max_features": 500_000}
"""Of many long texts only the most frequent features are used."""
_WORD: Final = re.compile(r"\w\w")
"""What scikit-learn's TF-IDF takes for a word begins with it; without any it raises an error."""
_MEASURED_SECONDS: Final = 0.1
_FOLDS: Final = 5
"""Of the cross-validation that looks for suspicious labels."""
_MOST_CHECKED: Final = 20_000
"""Training texts among which it looks: seconds, or a minute with many classes."""
_SHARES: Final = (0.1, 0.25, 0.5, 1.0)
"""Of the training texts, for the learning curve."""


def _fit(known: Examples) -> Pipeline:
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    texts, model = _joined(known), LinearSVC(random_state=0)
    model = OneVsRestClassifier(model) if known.labels.ndim > 1 else model
    return make_pipeline(_features(texts), model).fit(texts, known.labels)


def _features(texts: list[str]) -> FeatureUnion:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    features = [TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, **_BOUND)]
    if any(_WORD.search(text) for text in texts):
        features.append(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **_BOUND))
    return make_union(*features)


def measure_linear_svm(corpus: Corpus) -> tuple[LinearResult, NDArray[np.int64]]:
    """Fit a linear SVM on word 1- and 2-grams and character 2- to 5-grams, and score it on the test split.

    TF-IDF; Joachims 1998 for the SVM. It learns from the training and the validation split together, since it chooses
    nothing; where it has thresholds to choose, from the training split.

    Returns:
        What it is worth, and its answers, (texts,) or (texts, classes).
    """
    started = time.perf_counter()
    model = _fit(corpus.train if corpus.is_multi_label else corpus.train.joined(corpus.validation))
    threshold = None
    if corpus.is_multi_label:
        margins = model.decision_function(_joined(corpus.validation)).reshape(corpus.validation.labels.shape)
        threshold = fit_thresholds(margins, corpus.validation.labels)
    fitted = time.perf_counter() - started
    texts, labels, classes = _joined(corpus.test), corpus.test.labels, corpus.num_classes
    started, passes, seconds = time.perf_counter(), 0, 0.0
    while seconds < _MEASURED_SECONDS:
        if threshold is None:
            scores, answers = None, model.predict(texts)
        else:
            scores = model.decision_function(texts).reshape(labels.shape)
            answers = predict_class(sigmoid(scores), threshold)
        passes, seconds = passes + 1, time.perf_counter() - started
    parameters = sum(int(one.coef_.size + one.intercept_.size) for one in _machines(model))
    result = LinearResult(
        metrics=compute_metrics(labels, answers, classes, scores),
        intervals=bootstrap_intervals(labels, answers, classes),
        parameters=parameters,
        bytes_on_disk=_bytes(model),
        train_seconds=fitted,
        texts_per_second=passes * len(texts) / seconds,
    )
    return result, answers


def suspicious_labels(examples: Examples) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Rank texts by how improbable their labels are to a linear SVM that has not learnt from them.

    The margins of a cross-validation become probabilities by temperature scaling; ranking by the label's is confident
    learning's self-confidence (Northcutt et al. 2021, "Confident Learning", section 3). Repeated texts, classes with
    fewer texts than folds, and most of very many texts are left out.

    Returns:
        The indices of texts, the most suspicious first, (texts,), and the classes' probabilities for each, (texts,
        classes). Both are empty where fewer than two classes are left.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.svm import LinearSVC

    places = np.unique(duplicate_groups(examples.items), return_index=True)[1]
    if len(places) > _MOST_CHECKED:
        places = np.random.default_rng(0).choice(places, _MOST_CHECKED, replace=False)
    sizes = np.bincount(examples.labels[places])
    places = np.sort(places[sizes[examples.labels[places]] >= _FOLDS])
    known, labels = np.unique(examples.labels[places], return_inverse=True)
    if len(known) < 2:
        return places[:0], np.zeros((0, len(sizes)))
    texts = _joined(examples.take(places))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    features, model = _features(texts).fit_transform(texts), LinearSVC(random_state=0)
    margins = cross_val_predict(model, features, labels, cv=folds, method="decision_function")
    logits = np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins  # (texts, known classes)
    probabilities = np.zeros((len(places), len(sizes)))
    probabilities[:, known] = softmax(logits, fit_temperature(logits, labels))
    order = np.argsort(probabilities[np.arange(len(places)), examples.labels[places]], kind="stable")
    return places[order], probabilities[order]


def suspicious_cases(corpus: Corpus) -> tuple[tuple[Case, ...], str]:
    """Describe the training texts with the most suspicious labels that the linear SVM would not give.

    Returns:
        The texts; and what the search was limited to, or why there was none.
    """
    if corpus.is_multi_label:
        return (), "Not searched: a text may have any number of labels."
    places, probabilities = suspicious_labels(corpus.train)
    texts, answers = corpus.train.take(places), probabilities.argmax(axis=1)
    note = ""
    if not len(places):
        note = f"Not searched: it takes two classes with {_FOLDS} different training texts each."
    elif len(places) < len(corpus.train):
        note = (
            f"Searched among {len(places):,} of the {len(corpus.train):,} training texts: without repeated texts and "
            f"classes of fewer than {_FOLDS}, and at most {_MOST_CHECKED:,}."
        )
    return cases(texts, np.flatnonzero(answers != texts.labels), corpus.label_names, probabilities, answers), note


def learning_curve(corpus: Corpus) -> LearningCurve | None:
    """Score linear SVMs of 10, 25, 50 and 100 % of each class's training texts on the validation split.

    None where the training texts have one class, or each may have several.
    """
    labels = corpus.train.labels
    if corpus.is_multi_label:
        return None
    counts = np.bincount(labels, minlength=corpus.num_classes)
    if np.count_nonzero(counts) < 2:
        return None
    ranks = np.empty(len(labels), dtype=np.int64)  # of each text within its class, in random order
    order = np.random.default_rng(0).permutation(len(labels))
    for label in np.flatnonzero(counts):
        ranks[order[labels[order] == label]] = np.arange(counts[label])
    known, answers = [], []
    for share in _SHARES:
        chosen = np.flatnonzero(ranks < np.ceil(share * counts[labels]))
        known.append(len(chosen))
        answers.append(_fit(corpus.train.take(chosen)).predict(_joined(corpus.validation)))
    right = corpus.validation.labels
    points = tuple((texts, float((given == right).mean())) for texts, given in zip(known, answers, strict=True))
    return LearningCurve(points, mcnemar(right, answers[-1], answers[-2]))


def _bytes(model: Pipeline) -> int:
    """Count what prediction needs: the features' names, the inverse frequency of each, and the weights."""
    names = model[0].get_feature_names_out()
    weights = [machine.coef_ for machine in _machines(model)]
    frequencies = weights[0].itemsize * len(names)
    return sum(len(name.encode("utf-8")) for name in names) + int(frequencies + sum(one.nbytes for one in weights))


def _machines(model: Pipeline) -> list[Any]:
    return getattr(model[-1], "estimators_", [model[-1]])


def _joined(examples: Examples) -> list[str]:
    if examples.pairs is None:
        return list(examples.texts)
    return [f"{first}{_BETWEEN}{second}" for first, second in zip(examples.texts, examples.pairs, strict=True)]
