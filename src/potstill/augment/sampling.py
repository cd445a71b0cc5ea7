"""Sampling texts from the backbone as a language model, batch by batch, in several processes where that pays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from potstill.augment.language_model import SEPARATOR, LanguageModel
from potstill.config import PotstillConfig
from potstill.console import progress_bar, warn
from potstill.data import Corpus
from potstill.executor import make_executor
from potstill.lora import absorb_adapters
from potstill.lora.counting import count_parameters
from potstill.store.cache import read_arrays, write_arrays
from potstill.training.checkpoint import CHECKPOINT_FILE
from potstill.training.compute import available_workers, make_fabric
from potstill.training.deadline import half_of_the_time, is_over
from potstill.training.inference import memory_explained

Pair = tuple[str, str | None]
Found = Iterator[tuple[Pair, str]]
"""Texts, each with its second one for sentence-pair tasks, and their source."""

BATCH: Final = 256
"""Texts sampled at once on a CPU: enough to keep two cores busy."""
GPU_BATCH: Final = 4096
"""The same on a GPU, which takes as long for a token of few texts as of many; their keys and values take 4 GB of it."""
_FEWEST: Final = 32
"""Texts sampled at once however few are wanted of a class: fewer take about as long."""
_FRUITLESS: Final = 0.01
"""A batch with fewer new texts than this share is its class's last: the language model repeats itself."""
_WORTH_PROCESSES: Final = 10_000_000
"""Parameters of a language model from which several processes sample: starting these takes seconds."""

_SAMPLES: Final = "sampled"
_LANGUAGE_MODEL: Final = "language-model"


def sample_texts(config: PotstillConfig, corpus: Corpus, directory: Path) -> Found:
    """Sample from the tuned language model: each class in turn, until there are equally many new texts of all.

    Where the time is limited (`training.deadline.until`), half of it is for the tuning at most.

    The language model and every drawn batch are saved in `directory`, where an interrupted call reads them again.
    """
    wanted, names = config.augment.sampled, corpus.label_names
    share, more = divmod(wanted, len(names))
    lacking = {label: share + (label < more) for label in range(min(wanted, len(names)))}
    samples = _Samples(config, corpus, directory)
    known = set(corpus.train.items)
    begun = ended = distinct = 0
    batches = samples.batches(_numbers(len(names), lacking))
    with progress_bar() as progress, closing(batches):
        task = progress.add_task("sampling", total=wanted, loss="", scores="")
        for number, batch in batches:
            label = number % len(names)
            if label not in lacking:  # it was drawn while the class's last batch was
                continue
            begun, ended, new = begun + samples.batch_size, ended + len(batch), 0
            for pair in batch:
                if pair not in known:
                    if new == lacking[label]:
                        break
                    known.add(pair)
                    new += 1
                yield pair, f"sampled:{names[label]}"
            distinct += new
            progress.update(task, completed=distinct)
            lacking[label] -= new
            if lacking[label] == 0 or new < _FRUITLESS * samples.batch_size:
                del lacking[label]
            if not lacking or is_over():
                break
    if distinct < wanted and not is_over():
        warn(
            f"the language model hardly writes new texts any more: {distinct:,} of {wanted:,} texts sampled; of "
            f"{begun:,} begun {ended:,} ended in time and in the right form. More training texts, a higher "
            "--sampling-temperature or --top-p give more new texts, a higher --max-length more that end."
        )


def _numbers(classes: int, lacking: Mapping[int, int]) -> Iterator[int]:
    """Number the batches of all classes in turn, but yield only those of classes that lack texts."""
    number = 0
    while lacking:
        if number % classes in lacking:
            yield number
        number += 1


def clear_samples(directory: Path) -> None:
    """Remove the saved batches and language model."""
    shutil.rmtree(directory / _SAMPLES, ignore_errors=True)
    for name in (_LANGUAGE_MODEL, CHECKPOINT_FILE):
        (directory / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Samples:
    """Batches of sampled texts, saved when they are drawn; a damaged one is drawn again, the same."""

    config: PotstillConfig
    corpus: Corpus
    directory: Path

    @property
    def batch_size(self) -> int:
        """Texts that are begun at once; those that do not end in time are left out of the batch."""
        most = BATCH if make_fabric(self.config.runtime).device.type == "cpu" else GPU_BATCH
        return min(most, max(_FEWEST, -(-self.config.augment.sampled // len(self.corpus.label_names))))

    def batches(self, numbers: Iterator[int]) -> Generator[tuple[int, list[Pair]]]:
        """Yield the batches of these numbers; number modulo classes is the class that is asked for."""
        is_large = count_parameters(self._tuned().model)[0] >= _WORTH_PROCESSES
        workers = available_workers(self.config.runtime) if is_large else 1
        yield from make_executor(self.config.runtime.executor, workers).map(self.draw, numbers)

    def draw(self, number: int) -> tuple[int, list[Pair]]:
        """Return the batch `number`, which is drawn if it is not saved."""
        path = self.directory / _SAMPLES / f"{number:06}"
        if (arrays := read_arrays(path)) is None:
            arrays = {"texts": np.frombuffer(json.dumps(self._sample(number)).encode(), dtype=np.uint8)}
            write_arrays(path, arrays)
        parts = 1 + self.corpus.in_pairs
        pairs: list[Pair] = []
        for text in json.loads(arrays["texts"].tobytes()):
            lines = [line.strip() for line in text.split(SEPARATOR)]
            if all(lines) and len(lines) == parts:
                pairs.append((lines[0], lines[1] if parts == 2 else None))
        return number, pairs

    def _sample(self, number: int) -> list[str]:
        settings, names, model, size = self.config.augment, self.corpus.label_names, self._tuned(), self.batch_size
        prompt, seed = names[number % len(names)], (settings.seed << 32) + number
        with memory_explained(lambda: f"while {size:,} texts of up to {model.max_length} tokens are sampled at once"):
            return list(model.sample(prompt, size, temperature=settings.temperature, top_p=settings.top_p, seed=seed))

    def _tuned(self) -> LanguageModel:
        """Return the language model, tuned now or before; each process loads it once."""
        if (model := _loaded.get(self.directory)) is not None:
            return model
        model, path = LanguageModel.load(self.config), self.directory / _LANGUAGE_MODEL
        if (saved := read_arrays(path)) is None:
            with half_of_the_time():
                model.tune(self.config, self.corpus, self.directory)
            write_arrays(path, {name: weight.detach().cpu().numpy() for name, weight in model.trained.items()})
        else:
            for name, weight in model.trained.items():
                weight.data.copy_(torch.from_numpy(saved[name]))
        (self.directory / CHECKPOINT_FILE).unlink(missing_ok=True)
        absorb_adapters(model.model)  # for faster sampling
        _loaded.clear()
        _loaded[self.directory] = model
        return model


_loaded: dict[Path, LanguageModel] = {}
"""The language model of this process, by the directory where it is saved."""
