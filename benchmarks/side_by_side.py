"""Training students of several seeds: side by side, a thread each, against one after the other with all threads.

    python benchmarks/side_by_side.py

The students are those of `configs/cola.yaml`, trained on the labels, three epochs each; the ratio is that of the times
until all are trained and saved.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import OURS, Run, arguments, in_turn, ratios, write_result
from potstill.config import PotstillConfig
from potstill.console import silence
from potstill.data import load_corpus
from potstill.pipeline import Trained, side_by_side, train

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--students", type=int, default=4, help="how many are trained in a run")
    args = parser.parse_args()
    shipped = PotstillConfig.load(ROOT / "configs" / "cola.yaml").model_dump()
    shipped["student"]["training"] |= {"epochs": 3, "patience": None}
    config = PotstillConfig.build(shipped)
    corpus = load_corpus(config.data)
    seeds = [args.seed + number for number in range(args.students)]

    def timed(train_all: Callable[[Callable[[int], Trained]], object]) -> Run:
        with tempfile.TemporaryDirectory() as directory, silence():
            started = time.perf_counter()
            train_all(lambda seed: train(config, corpus, Path(directory) / str(seed), seed))
            return {"students": len(seeds), "seconds": time.perf_counter() - started}

    contestants = {
        "in_turn": lambda _round: timed(lambda train_one: [train_one(seed) for seed in seeds]),
        OURS: lambda _round: timed(lambda train_one: side_by_side(train_one, seeds, config, corpus)),
    }
    runs = in_turn(contestants, args.rounds)
    write_result(args.out, runs, ratios=ratios(runs, "seconds", inverse=True))


if __name__ == "__main__":
    main()
