"""Wrong labels that `potstill data` finds: what share of them is among the most suspicious texts.

    python benchmarks/label_errors.py ../shared/tasks/trec6

Of the training and validation split, `--flipped` of the labels become another class, drawn evenly. TARGET: 60 % of
these are among the most suspicious 10 %, in each of `--rounds`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common import Run, arguments, spread, target, write_result
from potstill.config import DataConfig
from potstill.data import load_corpus
from potstill.experiment.linear import suspicious_labels


def main() -> None:
    """Measure and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("data", help="data set, as for `potstill data`")
    parser.add_argument("--flipped", type=float, default=0.05, help="share of wrong labels")
    parser.add_argument("--first", type=float, default=0.1, help="share of the texts that is looked at")
    args = parser.parse_args()
    corpus = load_corpus(DataConfig(source=args.data))
    texts = corpus.train.joined(corpus.validation)

    def run(seed: int) -> Run:
        generator = np.random.default_rng(seed)
        flipped = generator.choice(len(texts), round(args.flipped * len(texts)), replace=False)
        labels = texts.labels.copy()
        labels[flipped] += generator.integers(1, corpus.num_classes, len(flipped))
        places, _ = suspicious_labels(replace(texts, labels=labels % corpus.num_classes))
        found = np.isin(flipped, places[: round(args.first * len(texts))]).mean()
        return {"seed": seed, "texts": len(texts), "flipped": len(flipped), "found": float(found)}

    runs = [run(seed) for seed in range(args.seed, args.seed + args.rounds)]
    found = spread([one["found"] for one in runs])
    write_result(args.out, runs, found=found, targets=[target("share found", 0.6, found["min"], "at least")])


if __name__ == "__main__":
    main()
