"""The classic that a student has to beat: a linear support vector machine on character n-grams.

    python benchmarks/linear_svm.py --config configs/banking77.yaml

It reads the texts that the configuration names, learns from training and selection split together, since it chooses
nothing, and is scored on the evaluation split. The result is `benchmarks/results/DATA_svm.json`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from common import RESULTS, over_seeds, write_result
from potstill.config import PotstillConfig
from potstill.data import load_corpus
from potstill.evaluation import compute_metrics


def main() -> None:
    """Fit, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="its section `data` is used")
    parser.add_argument("--out", type=Path, help="result file  [default: benchmarks/results/DATA_svm.json]")
    args = parser.parse_args()
    corpus = load_corpus(PotstillConfig.load(args.config).data)
    known = corpus.train.joined(corpus.selection)
    started = time.perf_counter()
    # Of one to five characters within words: what is common for short texts (Joachims 1998 for the machine itself).
    model = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True), LinearSVC())
    model.fit(known.texts, known.labels)
    seconds = time.perf_counter() - started
    metrics = compute_metrics(corpus.evaluation.labels, model.predict(corpus.evaluation.texts), corpus.num_classes)
    parameters = int(model[-1].coef_.size + model[-1].intercept_.size)
    write_result(
        args.out or RESULTS / f"{corpus.name}_svm.json",
        [{"name": "character TF-IDF, linear SVM", "seconds": seconds}],
        accuracy=over_seeds([metrics.accuracy]),
        mcc=over_seeds([metrics.mcc]),
        parameters=parameters,
        trainable_parameters=parameters,
    )


if __name__ == "__main__":
    main()
