"""What the speed benchmarks share: contestants in turn, ratios with their spread, results as JSON and plots.

Potstill and its peers are measured alternately in one run, so that a machine that is slower for a while is slower for
all of them. A ratio compares the runs of one round; reported are its median, minimum and maximum over the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from potstill.backbone import EMBEDDED, TextClassifier, build_classifier
from potstill.config import DataConfig, LoRAConfig, RuntimeConfig, TrainingConfig
from potstill.data import Corpus, Examples
from potstill.data.tokenised import TrainingSet
from potstill.distillation.loss import Objective
from potstill.environment import describe_environment
from potstill.evaluation import Spread
from potstill.files import write_json
from potstill.lora import inject
from potstill.teacher import Teacher
from potstill.training.compute import compress_frozen_matrices, is_mixed
from potstill.training.inference import tokens_at_once
from potstill.training.loop import Learner

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Run = dict[str, Any]
Batches = Sequence[NDArray[np.int64]]

RESULTS = Path(__file__).resolve().parent / "results"
RUNTIME = RuntimeConfig(device="cpu", precision="32-true")
"""The same arithmetic for all contestants."""
AS_SHIPPED = RuntimeConfig(device="cpu")
"""What Potstill computes with unless told otherwise: bfloat16 products where the processor has them."""
MAX_TOKENS = DataConfig().max_tokens
SPEED_TRAINING = TrainingConfig(epochs=1, schedule="constant", warmup=0.0)
"""Settings that Potstill and `transformers` mean alike, so that their losses can be compared step by step."""
PLAIN = Objective()
"""The mean cross-entropy, as in `transformers`."""
OURS = "ours"
POTSTILL = (sys.executable, "-c", "from potstill.cli import main; main()")
"""The command line, in a process of its own."""


def arguments(
    description: str | None, name: str | None = None, *, rounds: bool = True, seed: bool = True
) -> argparse.ArgumentParser:
    """Make a parser with the flags that most benchmarks know.

    Args:
        description: The script's docstring.
        name: Of the result; None: the script's.
        rounds: Whether contestants run several times.
        seed: Whether anything is drawn.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds:
        parser.add_argument("--rounds", type=int, default=3, help="times that each contestant runs")
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="draws sentences, batches and weights")
    default = RESULTS / f"{name or Path(sys.argv[0]).stem}.json"
    parser.add_argument("--out", type=Path, default=default, help="result file; a plot goes beside it")
    return parser


def in_turn(contestants: Mapping[str, Callable[[int], Run]], rounds: int) -> list[Run]:
    """Let all contestants run once a round; who was last in a round is first in the next.

    Args:
        contestants: By name, what takes the round's number, runs, and returns measurements.
        rounds: How often.

    Returns:
        One entry per run: `name`, `round`, and what was measured.
    """
    runs: list[Run] = []
    for number in range(rounds):
        names = list(contestants) if number % 2 == 0 else list(reversed(contestants))
        for name in names:
            gc.collect()
            runs.append({"name": name, "round": number, **contestants[name](number)})
            sys.stderr.write(f"{runs[-1]}\n")
    return runs


def ratios(runs: Iterable[Run], field: str, *, inverse: bool = False, ours: str = OURS) -> dict[str, dict[str, float]]:
    """Compare `field` of our runs with each peer's of the same round and size.

    Args:
        runs: What `in_turn` returned, of one or several sizes.
        field: What to compare.
        inverse: Divide the peer's value by ours, as for times, instead of ours by the peer's.
        ours: Name of our runs.

    Returns:
        `vs_PEER`: the spread of the ratio.
    """
    table: dict[tuple[int, Any], dict[str, float]] = {}
    for run in runs:
        table.setdefault((run["round"], run.get("sentences")), {})[run["name"]] = run[field]
    found: dict[str, list[float]] = {}
    for values in table.values():
        own = values.pop(ours)
        for peer, value in values.items():
            found.setdefault(f"vs_{peer}", []).append(value / own if inverse else own / value)
    return {peer: spread(values) for peer, values in found.items()}


def exactly(what: str, wanted: float, found: float) -> dict[str, Any]:
    """Write down a target for a result: what was wanted, what was found, and whether that will do."""
    return _target(what, wanted, found, met=found == wanted)


def at_least(what: str, wanted: float, found: float) -> dict[str, Any]:
    """Write down a target below which nothing will do; see `exactly`."""
    return _target(f"{what}, at least", wanted, found, met=found >= wanted)


def at_most(what: str, wanted: float, found: float) -> dict[str, Any]:
    """Write down a target above which nothing will do; see `exactly`."""
    return _target(f"{what}, at most", wanted, found, met=found <= wanted)


def _target(what: str, wanted: float, found: float, *, met: bool) -> dict[str, Any]:
    return {"what": what, "wanted": wanted, "found": found, "met": bool(met)}


def finished(
    file: Path,
    wanted: Sequence[tuple[str, int]],
    key: Callable[[str], str],
    train: Callable[[str, int], Run],
    jobs: int,
) -> list[Run]:
    """Return a run for every row and seed: what an earlier call has noted in `file`, or trained and noted there now.

    Args:
        file: A line of JSON per run.
        wanted: Names of rows, with seeds.
        key: Of a row's name, the digest of what else decides its runs; what was noted under another is passed over.
        train: Trains a row with a seed and returns what came of it, `name` and `seed` with it.
        jobs: Trainings at a time.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    noted = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    known = {(run["name"], run["seed"]): run for run in noted if run.get("key") == key(run["name"])}
    missing = [pair for pair in wanted if pair not in known]
    with ThreadPoolExecutor(jobs) as pool, file.open("a") as lines:
        for run in pool.map(lambda pair: train(*pair) | {"key": key(pair[0])}, missing):
            lines.write(json.dumps(run) + "\n")
            lines.flush()
            sys.stderr.write(f"{run}\n")
            known[run["name"], run["seed"]] = run
    return [known[pair] for pair in wanted]


def adapted_backbone(lora: LoRAConfig, fabric: Fabric) -> TextClassifier:
    """Return the embedded backbone with adapters, ready for training as `fabric` computes."""
    classifier = build_classifier(EMBEDDED, num_classes=2)
    inject(classifier.model, lora)
    if is_mixed(fabric):
        compress_frozen_matrices(classifier)
    return classifier.train()


def training_pace(model: nn.Module, ids: Tensor, fabric: Fabric, steps: int = 1) -> float:
    """Take training steps, forward and backward without an optimiser; return the tokens per second."""
    mask, labels = torch.ones_like(ids), torch.zeros(len(ids), dtype=torch.long)
    started = time.perf_counter()
    for _ in range(steps):
        with fabric.autocast():
            logits = model(ids, mask)
        cross_entropy(logits, labels).backward()
    return steps * ids.numel() / (time.perf_counter() - started)


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, sample standard deviation (0 for one value) and the values, in the order of their seeds."""
    return vars(Spread.of(values))


def train_apart(flags: Sequence[str], **environment: str) -> Run:
    """Run this script with `flags` in a process of its own, with one thread; return the JSON that it prints."""
    command = [sys.executable, sys.argv[0], *flags]
    variables = os.environ | {"OMP_NUM_THREADS": "1", **environment}
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        raise RuntimeError(f"{shlex.join(flags)}:\n{result.stderr}")
    run: Run = json.loads(result.stdout)
    return run


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write_result(path: Path, runs: Sequence[Run], **content: Any) -> None:
    """Write a result: how it was made, on what, every run, and what follows from them."""
    script = Path(sys.argv[0]).resolve()
    root = RESULTS.parents[1]
    name = script.relative_to(root) if script.is_relative_to(root) else Path("benchmarks", script.name)
    command = shlex.join(["python", name.as_posix(), *sys.argv[1:]])
    write_json(path, {"command": command, "environment": describe_environment(), "runs": list(runs), **content})
    sys.stderr.write(f"written: {path}\n")


def plot(path: Path, series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> None:
    """Draw a line through the medians of each series of (x, y), with a band from minimum to maximum."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, points in series.items():
        grouped: dict[float, list[float]] = {}
        for x, y in sorted(points):
            grouped.setdefault(x, []).append(y)
        (line,) = axes.plot(list(grouped), [statistics.median(y) for y in grouped.values()], marker=".", label=name)
        lowest, highest = [min(y) for y in grouped.values()], [max(y) for y in grouped.values()]
        axes.fill_between(list(grouped), lowest, highest, color=line.get_color(), alpha=0.2)
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_over_size(path: Path, runs: Iterable[Run]) -> None:
    """Draw tokens per second over the number of sentences, a line per contestant."""
    series: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        series.setdefault(run["name"], []).append((run["sentences"], run["tokens_per_second"]))
    plot(path, series, "sentences", "real tokens per second")


def labelled_sentences(corpus: Corpus) -> Examples:
    """Return all that may be learnt from: training and selection split together."""
    parts = (corpus.train, corpus.selection)
    return Examples(tuple(text for part in parts for text in part.texts), np.concatenate([p.labels for p in parts]))


def draw(examples: Examples, size: int, seed: int) -> Examples:
    """Draw `size` examples, or all there are."""
    return examples.take(np.random.default_rng(seed).permutation(len(examples))[:size])


def sample_batches(
    plan: Batches, lengths: NDArray[np.int64], count: int | None, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draw batches from an epoch's plan, each with the same probability: their rate estimates the epoch's.

    The plan is put in order of real tokens and read at equal distances from a random start (systematic sampling), so
    that short and long batches come in the plan's proportion however few are drawn.

    Args:
        plan: Indices per batch.
        lengths: Tokens per text, (texts,).
        count: How many; None: the whole plan as it stands.
        generator: Decides start and order.

    Returns:
        The batches in random order, incomplete ones last: what cuts their texts into equal parts finds them again.
    """
    if count is None or count >= len(plan):
        chosen = list(plan)
    else:
        by_tokens = sorted(plan, key=lambda batch: int(lengths[batch].sum()))
        places = (np.arange(count) + generator.random()) / count * len(plan)
        chosen = [by_tokens[int(place)] for place in generator.permutation(places)]
    return sorted(chosen, key=len, reverse=True)  # stable: only incomplete ones move


@dataclass(frozen=True)
class Steps:
    """Some steps of training.

    Attributes:
        losses: The loss of each, before it was taken.
        seconds: Time of all of them together.
    """

    losses: list[float]
    seconds: float


def learner(teacher: Teacher, training: TrainingConfig, steps: int, objective: Objective = PLAIN) -> Learner:
    """Set up what `potstill.training.fit` takes its steps with."""
    return Learner(
        teacher.classifier,
        objective,
        training,
        steps,
        teacher.fabric,
        b_ratio=teacher.b_ratio,
        most_tokens=tokens_at_once(teacher.fabric),
    )


def take_steps(teacher: Teacher, data: TrainingSet, batches: Batches, training: TrainingConfig) -> Steps:
    """Take our optimiser steps, one a batch."""
    ours = learner(teacher, training, len(batches))
    losses: list[float] = []
    started = time.perf_counter()
    ours.train(data, batches, losses.append)
    return Steps(losses, time.perf_counter() - started)


def rate(data: TrainingSet, indices: NDArray[np.int64], seconds: float) -> Run:
    """Tell what was done in which time; only real tokens count, padding is nothing done."""
    tokens = int(data.tokens.lengths[indices].sum())
    return {
        "measured_sentences": len(indices),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "sentences_per_second": len(indices) / seconds,
    }


_PROBE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_memory(command: Sequence[str]) -> float:
    """Run a command and return the peak of its resident memory in MiB.

    A small process in between starts it: the kernel counts the memory of the process that forks for the one that is
    started, and this one is large.
    """
    probe = [sys.executable, "-c", _PROBE, *command]
    kilobytes = int(subprocess.run(probe, check=True, stdout=subprocess.PIPE, text=True).stdout)  # noqa: S603
    return kilobytes / (1024**2 if sys.platform == "darwin" else 1024)  # macOS counts bytes


def resident_mb(pid: int) -> float:
    """Return the memory that a process holds resident, in MB; 0 where it has ended."""
    import psutil

    try:
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    except psutil.Error:
        return 0.0
