"""The classic that a student has to beat: a linear SVM on character n-grams.

    python benchmarks/linear_svm.py --config configs/banking77.yaml

It reads the texts that the configuration names, learns from training and validation split together, since it chooses
nothing, and is scored on the test split. The result is `benchmarks/results/DATA_svm.json`.
"""

from __future__ import annotations

import time
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC

from common import arguments, over_seeds, write_result
from potstill.config import PotstillConfig
from potstill.data import Corpus, load_corpus
from potstill.evaluation import compute_metrics


def main() -> None:
    """Fit, score, write."""
    parser = arguments(__doc__, "DATA_svm", rounds=False, seed=False)
    parser.add_argument("--config", type=Path, required=True, help="its section `data` is used")
    args = parser.parse_args()
    corpus = load_corpus(PotstillConfig.load(args.config).data)
    # Of one to five characters within words: what is common for short texts (Joachims 1998 for the SVM itself).
    model, seconds = fit_linear_svm(corpus, TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True))
    metrics = compute_metrics(corpus.test.labels, model.predict(corpus.test.texts), corpus.num_classes)
    parameters = int(model[-1].coef_.size + model[-1].intercept_.size)
    write_result(
        args.out.with_name(args.out.name.replace("DATA", corpus.name)),
        [{"name": "character TF-IDF, linear SVM", "seconds": seconds}],
        accuracy=over_seeds([metrics.accuracy]),
        mcc=over_seeds([metrics.mcc]),
        parameters=parameters,
        trainable_parameters=parameters,
    )


def fit_linear_svm(corpus: Corpus, *features: TfidfVectorizer) -> tuple[Pipeline, float]:
    """Fit a linear SVM on training and validation texts together; returns it, and the seconds that it took."""
    known, started = corpus.train.joined(corpus.validation), time.perf_counter()
    model = make_pipeline(make_union(*features), LinearSVC()).fit(known.texts, known.labels)
    return model, time.perf_counter() - started


if __name__ == "__main__":
    main()
