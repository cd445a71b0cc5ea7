"""Kill `potstill run` at random moments, let it go on, and compare what it ends with to an undisturbed run, bit by bit.

    python benchmarks/torture/kills.py --kills 50
    python benchmarks/torture/kills.py --kills 5 --embedded

The pipeline is small but whole: two teachers, a transfer set that is sampled and perturbed, two distilled students with
language modelling and matched hidden states, two baselines, the report. The backbone is a GPT-2 with random weights,
made on the spot; with `--embedded` it is the embedded model. Every trial has a directory and a cache of its own. It is
ended once to three times, most often by SIGKILL, else by SIGTERM or Ctrl-C, each at a moment drawn from the whole time
that the rest takes; then it may end. All weights, histories, predictions, the transfer set and the summary have to be
those of the undisturbed run, without what tells of time, and every seal has to fit. Trials run side by side; what each
draws does not depend on how many.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from remains import contents, differences, verify_all
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

import common
from potstill.config import DataConfig
from potstill.data import load_corpus
from potstill.errors import PotstillError
from potstill.report import is_reported

ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
"""What ends a run, and the status that it then has."""
SHARES = {signal.SIGKILL: 0.7, signal.SIGTERM: 0.15, signal.SIGINT: 0.15}
MOST_ENDS = 3
LIMIT = 200
"""Labelled sentences."""
VOCABULARY = 400


def settings(backbone: str, data: dict[str, Any], *, embedded: bool) -> dict[str, Any]:
    """Return the pipeline's configuration; with the embedded model nothing is sampled, which would take minutes."""
    training = {"epochs": 2, "batch_size": 16}
    return {
        "data": data | {"max_tokens": 32},
        "teacher": {
            "backbone": backbone,
            "training": {"epochs": 1 if embedded else 3, "batch_size": 16},
            "lora": {"dropout": 0.1, "last_blocks": 1},
            "seeds": [0] if embedded else [0, 1],
        },
        "transfer": {
            "sampled": 0 if embedded else 20,
            "perturbed": 100,
            "training": {**training, "epochs": 1, "metric": "loss"},
        },
        "student": {
            "embedding_size": 16,
            "hidden_size": 16,
            "vocab_size": 400,
            "pretraining": {"epochs": 2, "batch_size": 32},
            "training": {**training, "epochs": 4},
            "seeds": [0, 1],
        },
        "distillation": {"hidden_weight": 0.5, "teachers": "average"},
        # Often, so that moments before, in and after a checkpoint's writing are hit.
        "runtime": {"device": "cpu", "precision": "32-true", "checkpoint_seconds": 0.1},
    }


def write_sentences(directory: Path) -> dict[str, Any]:
    """Write a few labelled sentences for a model that takes long to read them; return the settings that name them."""
    corpus = load_corpus(DataConfig(source="embedded", limit=LIMIT))
    files = {}
    for name, part, size in (("source", corpus.train, 60), ("evaluation", corpus.evaluation, 30)):
        file = directory / f"{name}.csv"
        with file.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(["text", "label"])
            labels = [corpus.label_names[label] for label in part.labels[:size]]
            writer.writerows(zip(part.texts[:size], labels, strict=True))
        files[name] = str(file)
    return files


def make_backbone(directory: Path) -> None:
    """Write a tiny GPT-2 with random weights and a tokenizer of the embedded corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(load_corpus(DataConfig(source="embedded", limit=LIMIT)).train.texts, trainer)
    names = {"bos_token": "<end>", "eos_token": "<end>", "pad_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    config = GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)


@dataclass(frozen=True)
class Place:
    """Where a run has its directory and its cache.

    Attributes:
        root: Holds both.
        config: The configuration file.
    """

    root: Path
    config: Path

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.root / "run"

    def start(self) -> subprocess.Popen[str]:
        """Start the command, or go on with it: it is the same one."""
        command = [*common.POTSTILL, "run", "--config", str(self.config), "--out", str(self.run)]
        variables = os.environ | {"POTSTILL_CACHE": str(self.root / "cache"), "OMP_NUM_THREADS": "1"}
        self.root.mkdir(exist_ok=True)
        with (self.root / "log").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=variables, text=True)  # noqa: S603

    def wait_for_work(self, process: subprocess.Popen[str]) -> float:
        """Wait until packages are loaded and work begins; return the moment."""
        lock = self.run / "potstill.lock"
        while process.poll() is None and not (lock.is_file() and lock.read_text().strip() == str(process.pid)):
            time.sleep(0.01)
        return time.perf_counter()


class FailedError(Exception):
    """Something else than a difference is wrong."""


def undisturbed(place: Place) -> float:
    """Run to the end; return the seconds of work, without loading packages."""
    process = place.start()
    started = place.wait_for_work(process)
    require(process.wait() == 0, place, "the undisturbed run failed")
    return time.perf_counter() - started


def require(condition: bool, place: Place, complaint: str) -> None:
    """Raise `FailedError` with the complaint and what the run said last."""
    if not condition:
        raise FailedError(f"{complaint}\n{(place.root / 'log').read_text()[-2000:]}")


def end_and_go_on(place: Place, seconds: float, generator: random.Random, ends: list[dict[str, Any]]) -> None:
    """End a run once or several times and let it end at last.

    Args:
        place: Where.
        seconds: What the undisturbed run's work took.
        generator: Draws signals and moments.
        ends: Gets the signals, with where the run was when each came.
    """
    wanted = generator.randint(1, MOST_ENDS)
    left = seconds
    while len(ends) < wanted:
        (number,) = generator.choices(list(SHARES), list(SHARES.values()))
        after = generator.uniform(0.0, left)
        process = place.start()
        started = place.wait_for_work(process)
        try:
            process.wait(max(0.0, started + after - time.perf_counter()))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        status = process.wait()
        if status == 0 or (number != signal.SIGKILL and is_reported(place.run)):  # it was finished before it was hit
            if ends:
                return
            shutil.rmtree(place.root)
            continue
        require(status == ENDS[number], place, f"expected status {ENDS[number]}, found {status}")
        ends.append({"signal": signal.Signals(number).name, "after": round(after, 3), "during": stage(place.run)})
        left = max(0.2 * seconds, left - after)
    process = place.start()
    require(process.wait() == 0, place, "a run that went on failed")


def trial(place: Place, seconds: float, generator: random.Random, expected: dict[str, Any]) -> dict[str, Any]:
    """Make a trial and compare; what goes wrong otherwise is a failed trial too. Arguments as for `end_and_go_on`.

    Args:
        place: Removed if all is well.
        seconds: See there.
        generator: See there.
        expected: The contents of the undisturbed run.
    """
    made: dict[str, Any] = {"ends": [], "identical": False, "differing": [], "files": len(expected)}
    try:
        end_and_go_on(place, seconds, generator, made["ends"])
        made["differing"] = differences(contents(place.run), expected)
        verify_all(place.run)
        made["identical"] = not made["differing"]
    except (FailedError, PotstillError, OSError, ValueError) as error:
        made["error"] = str(error)
    if made["identical"]:
        shutil.rmtree(place.root)
    return made


def stage(run: Path) -> str:
    """Say what a run was at: the newest of its directories that is not finished."""
    order = [*sorted(run.glob("teacher/seed-*")), run / "transfer"]
    seeds = sorted(path.name for path in run.glob("distilled/seed-*"))
    order += [run / role / seed for seed in seeds for role in ("distilled", "baseline")]
    begun = [path for path in order if path.is_dir()]
    if not begun:
        return "beginning"
    latest = begun[-1]
    finished = (latest / "training.json").is_file() or (latest / "transfer.parquet").is_file()
    name = str(latest.relative_to(run))
    if finished:
        return f"after {name}"
    return f"{name}, language modelling" if (latest / "pretraining-checkpoint.safetensors").is_file() else name


def trials(arguments: argparse.Namespace, root: Path) -> Iterator[dict[str, Any]]:
    """Make all trials, after the undisturbed run."""
    backbone, data = "smollm2-135m", {"source": "embedded", "limit": LIMIT}
    if arguments.embedded:
        data = write_sentences(root)
    else:
        backbone = str(root / "backbone")
        make_backbone(root / "backbone")
    config = root / "torture.yaml"
    config.write_text(yaml.safe_dump(settings(backbone, data, embedded=arguments.embedded)))
    whole = Place(root / "undisturbed", config)
    seconds = undisturbed(whole)
    expected = contents(whole.run)
    verify_all(whole.run)

    def numbered(number: int) -> dict[str, Any]:
        generator = random.Random(f"{arguments.seed} {number}")  # noqa: S311 — no secret
        made = {"trial": number, **trial(Place(root / f"trial-{number}", config), seconds, generator, expected)}
        sys.stderr.write(f"{made}\n")
        return made | {"undisturbed_seconds": round(seconds, 2)}

    with ThreadPoolExecutor(arguments.jobs) as pool:  # each waits for processes of its own
        yield from pool.map(numbered, range(arguments.kills))


def main() -> None:
    """Torture, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="draws signals and moments")
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--kills", type=int, default=50, help="runs that are ended at random moments")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trials side by side  [default: cores]")
    parser.add_argument("--embedded", action="store_true", help="with the embedded model, which takes longer")
    arguments = parser.parse_args()
    name = "torture_kills_embedded" if arguments.embedded else "torture_kills"
    out = arguments.out or common.RESULTS / f"{name}.json"
    root = Path(tempfile.mkdtemp(prefix="potstill-kills-"))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the runs shall hear it, also where this runs unheard
    runs = list(trials(arguments, root))
    failed = [run for run in runs if not run["identical"]]
    counts: dict[str, int] = {}
    for end in (end for run in runs for end in run["ends"]):
        counts[end["signal"]] = counts.get(end["signal"], 0) + 1
    common.write_result(out, runs, identical=len(runs) - len(failed), trials=len(runs), ends=counts)
    if failed:
        sys.exit(f"{len(failed)} of {len(runs)} runs ended otherwise; they stand in {root}")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
