"""A classifier of `inference.py`, in a process of its own: loaded, asked, measured; the result is printed as JSON.

    python benchmarks/baselines.py KIND DIRECTORY --texts FILE --timed FILE --seconds 3 --calls 1000

Only the standard library is imported before the clock runs, so that `load_ms` is what a user's program waits for:
imports and weights. All get the same texts as strings, and answer with class indices. The process is kept to
one core, since not every library asks how many threads it may take.

The timed texts are new to the process, each comes once: some classifiers remember words, and would do nothing else if
the same texts came again and again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

Predict = Callable[[list[str]], list[int]]

FEWEST_CALLS = 200
"""Single texts at least, however slow: two of so many are slower than the 99th percentile."""
BATCH = 64
"""Texts at a time, where a library leaves that to its user."""


def student(directory: Path) -> Predict:
    """Load an exported student, or whatever is laid out like one: the runtime, without torch."""
    from potstill.predict import Classifier

    classifier = Classifier.load(directory, threads=1)
    labels = {name: number for number, name in enumerate(classifier.label_names)}
    return lambda texts: [labels[name] for name in classifier.predict(texts)]


def teacher(directory: Path) -> Predict:
    """Load a teacher, with its adapters in its weights; precision as `auto` chooses it for this machine."""
    import torch

    from potstill.config import RuntimeConfig
    from potstill.lora import absorb_adapters
    from potstill.teacher.transformer import TransformerTeacher

    torch.set_num_threads(1)
    loaded = TransformerTeacher.load(directory, RuntimeConfig(device="cpu"))
    absorb_adapters(loaded.classifier)
    return lambda texts: loaded.probabilities(texts).argmax(axis=1).tolist()


def sklearn(directory: Path) -> Predict:
    """Load scikit-learn's pipeline as its users keep it."""
    import joblib

    pipeline = joblib.load(directory / "pipeline.joblib")
    return lambda texts: pipeline.predict(texts).tolist()


def fasttext(directory: Path) -> Predict:
    """Load fastText's own file."""
    import fasttext as library

    model = library.load_model(str(directory / "model.bin"))

    def predict(texts: list[str]) -> list[int]:
        labels, _ = model.predict([text.replace("\n", " ") for text in texts])
        return [int(label[0].removeprefix("__label__")) for label in labels]

    return predict


KINDS = {load.__name__: load for load in (student, teacher, sklearn, fasttext)}


def main() -> None:
    """Load, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--texts", type=Path, required=True, help="JSON file with a list of texts to classify")
    parser.add_argument("--timed", type=Path, help="texts to classify against the clock (default: the same)")
    parser.add_argument("--seconds", type=float, default=3.0, help="stop the clock after so long at the latest")
    parser.add_argument("--repeat", action="store_true", help="ask them again and again until the clock stops")
    parser.add_argument("--size", type=int, default=512, help="texts a call")
    parser.add_argument("--calls", type=int, default=0, help="then ask so many single texts")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    texts: list[str] = json.loads(args.texts.read_text(encoding="utf-8"))
    timed: list[str] = json.loads((args.timed or args.texts).read_text(encoding="utf-8"))
    started = time.perf_counter()
    predict = KINDS[args.kind](args.directory)
    measured = {"load_ms": 1e3 * (time.perf_counter() - started)}
    predict(texts[:BATCH])  # what happens once
    singles = min(args.calls, len(timed) // 3)
    measured |= _rate(predict, timed[singles:], args.size, args.seconds, repeat=args.repeat)
    if singles:
        measured |= _delays(predict, timed[:singles], args.seconds)
    measured["predictions"] = predict(texts)
    sys.stdout.write(json.dumps(measured | {"rss_mb": peak_bytes() / 1e6}))


def _rate(predict: Predict, texts: list[str], size: int, seconds: float, *, repeat: bool) -> dict[str, float]:
    """Ask texts, `size` a call, until there are no more or the time is over."""
    parts = [texts[start : start + size] for start in range(0, len(texts), size)]
    asked, started = 0, time.perf_counter()
    for part in itertools.cycle(parts) if repeat else parts:
        asked += len(predict(part))
        if (elapsed := time.perf_counter() - started) > seconds:
            break
    return {"sentences_per_s": asked / elapsed, "sentences": asked}


def _delays(predict: Predict, texts: list[str], seconds: float) -> dict[str, float]:
    """Ask single texts, each a call, until there are no more or, after enough of them, the time is over."""
    delays: list[float] = []
    begun = time.perf_counter()
    for text in texts:
        started = time.perf_counter()
        predict([text])
        delays.append(1e3 * (time.perf_counter() - started))
        if len(delays) >= FEWEST_CALLS and started - begun > seconds:
            break
    delays.sort()
    return {"p50_ms": delays[len(delays) // 2], "p99_ms": delays[int(0.99 * len(delays))], "calls": len(delays)}


def peak_bytes() -> int:
    """Return the most memory that this process has held resident (`getrusage` counts what its parent held, too)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
