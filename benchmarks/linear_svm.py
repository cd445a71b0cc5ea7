"""The classic that a student has to beat, on the texts of one configuration: the linear SVM of every report.

    python benchmarks/linear_svm.py --config configs/banking77.yaml

The result is `benchmarks/results/DATA_svm.json`.
"""

from __future__ import annotations

from pathlib import Path

from common import arguments, over_seeds, write_result
from potstill.config import PotstillConfig
from potstill.data import load_corpus
from potstill.experiment.linear import measure_linear_svm


def main() -> None:
    """Fit, score, write."""
    parser = arguments(__doc__, "DATA_svm", rounds=False, seed=False)
    parser.add_argument("--config", type=Path, required=True, help="its section `data` is used")
    args = parser.parse_args()
    corpus = load_corpus(PotstillConfig.load(args.config).data)
    linear, _ = measure_linear_svm(corpus)
    write_result(
        args.out.with_name(args.out.name.replace("DATA", corpus.name)),
        [{"name": "linear SVM", "seconds": linear.train_seconds}],
        accuracy=over_seeds([linear.metrics.accuracy]),
        mcc=over_seeds([linear.metrics.mcc]),
        parameters=linear.parameters,
        trainable_parameters=linear.parameters,
    )


if __name__ == "__main__":
    main()
