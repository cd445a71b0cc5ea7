"""The classic that a student has to beat: a linear SVM on character n-grams.

    python benchmarks/linear_svm.py --config configs/banking77.yaml

It reads the texts that the configuration names, learns from training and validation split together, since it chooses
nothing, and is scored on the test split. The result is `benchmarks/results/DATA_svm.json`.
"""

from __future__ import annotations

import time
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from common import arguments, over_seeds, write_result
from potstill.config import PotstillConfig
from potstill.data import load_corpus
from potstill.evaluation import compute_metrics


def main() -> None:
    """Fit, score, write."""
    parser = arguments(__doc__, "DATA_svm", rounds=False, seed=False)
    parser.add_argument("--config", type=Path, required=True, help="its section `data` is used")
    args = parser.parse_args()
    corpus = load_corpus(PotstillConfig.load(args.config).data)
    known = corpus.train.joined(corpus.validation)
    started = time.perf_counter()
    # Of one to five characters within words: what is common for short texts (Joachims 1998 for the SVM itself).
    model = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True), LinearSVC())
    model.fit(known.texts, known.labels)
    seconds = time.perf_counter() - started
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


if __name__ == "__main__":
    main()
