"""Building a transfer set: texts found, sampled and perturbed, then freed of what is held out."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import torch

from potstill.artifacts import Arrays, digest, file_digest, read_arrays, write_arrays
from potstill.config import PotstillConfig
from potstill.console import print_line, progress_bar, warn
from potstill.data import Corpus
from potstill.errors import ConfigError, DataError
from potstill.lora.counting import count_parameters
from potstill.runtime import stream
from potstill.runtime.directory import TRANSFER_FILE
from potstill.training.checkpoint import CHECKPOINT_FILE
from potstill.training.compute import make_fabric
from potstill.training.loop import HISTORY_FILE
from potstill.training.memory import memory_explained
from potstill.training.workers import available_workers, workers
from potstill.transfer.language_model import SEPARATOR, LanguageModel, check_writer
from potstill.transfer.overlap import near
from potstill.transfer.perturb import perturb
from potstill.transfer.sets import TransferSet

Pair = tuple[str, str | None]
Found = Iterator[tuple[Pair, str]]
"""Texts, each with its second one for sentence-pair tasks, and their source."""

BATCH: Final = 256
"""Texts sampled at once on a CPU: enough to keep two cores busy. Of a larger batch more would be thrown away at the
end."""
GPU_BATCH: Final = 4096
"""The same on a GPU, which takes as long for a token of few texts as of many; their keys and values take 4 GB of it."""

_FEWEST: Final = 32
"""Texts sampled at once however few are wanted of a class: fewer would hardly be done sooner."""

_FRUITLESS: Final = 0.01
"""A batch that brings fewer new texts than this share is its class's last: the language model repeats itself."""

_WORTH_FORKING: Final = 10_000_000
"""Parameters of a language model from which several processes sample: one with fewer is done before they have begun."""

_SAMPLES: Final = "sampled"
_LANGUAGE_MODEL: Final = "language-model"


def build_transfer_set(config: PotstillConfig, corpus: Corpus, directory: Path) -> TransferSet:
    """Build the transfer set that `config.transfer` describes, or go on with one that was begun.

    Args:
        config: `transfer`, `data`, `teacher` (the backbone) and `runtime` are used.
        corpus: The task. Only its training texts are learnt from; its selection and evaluation texts are kept out.
        directory: Gets `transfer.parquet` and, until it is there, what a later call needs to go on. What stands there
            is taken for what this call would make: nothing in it tells of what settings it is.

    Returns:
        The set, not judged yet.

    Raises:
        DataError: A file can't be read.
        ConfigError: Pairs of texts are to be perturbed; the backbone's tokenizer can't end a text; no text is left.
        SourceError: The backbone can't be found or reached, or writes no text.
    """
    if (directory / TRANSFER_FILE).is_file():
        _clear(directory)  # a call may have been interrupted before it did
        return TransferSet.load(directory)
    _check_makers(config, corpus)
    directory.mkdir(parents=True, exist_ok=True)
    new = _New(corpus, config.transfer.similarity)
    for name in config.transfer.files:
        new.add(_read(Path(name), config, in_pairs=corpus.in_pairs))
    if config.transfer.sampled:
        new.add(_sampled(config, corpus, directory))
    if config.transfer.perturbed:  # what is left of them: a held-out text, perturbed, may not be like it any more
        new.add(_perturbed(config, [*corpus.train.texts, *(text for text, _ in new.kept)]))
    if not new.kept:
        raise ConfigError(
            [
                f"transfer: expected new texts, found none, only {new.repeated:,} that were there already and "
                f"{new.like_held_out:,} like a text that is held out; name other files, or have `transfer` or "
                "`run` sample or perturb texts"
            ]
        )
    built = TransferSet(
        texts=tuple(text for text, _ in new.kept),
        pairs=tuple(second or "" for _, second in new.kept) if corpus.in_pairs else None,
        sources=tuple(new.kept.values()),
        dropped={"held-out": new.like_held_out, "repeated": new.repeated},
        held_out=held_out_key(corpus),
    )
    built.save(directory / TRANSFER_FILE)
    _clear(directory)
    describe(built)
    return built


def held_out_key(corpus: Corpus) -> str:
    """Return a digest of the texts that a transfer set for `corpus` is freed of."""
    return digest(sorted(_held_out(corpus)))


def _held_out(corpus: Corpus) -> list[str]:
    return [_joined(pair) for part in (corpus.selection, corpus.evaluation) for pair in part.items]


def _clear(directory: Path) -> None:
    """Remove what nobody needs when the set is there."""
    shutil.rmtree(directory / _SAMPLES, ignore_errors=True)
    for name in (_LANGUAGE_MODEL, CHECKPOINT_FILE):
        (directory / name).unlink(missing_ok=True)


def check_transfer(config: PotstillConfig, corpus: Corpus) -> None:
    """Refuse what can't be built, before anything is tuned. Errors as for `build_transfer_set`."""
    _check_makers(config, corpus)
    for name in config.transfer.files:
        deque(_read(Path(name), config, in_pairs=corpus.in_pairs), maxlen=0)  # to its end, keeping nothing


def _check_makers(config: PotstillConfig, corpus: Corpus) -> None:
    """Refuse what can't be perturbed or sampled."""
    if config.transfer.perturbed and corpus.in_pairs:
        raise ConfigError(["transfer.perturbed: single texts can be perturbed, pairs can't; leave it at 0"])
    if config.transfer.sampled:
        check_writer(config)


def files_key(config: PotstillConfig) -> str | None:
    """Return a digest of what the files of `transfer.files` hold; None where none is named.

    Raises:
        DataError: One of them can't be read.
    """
    digests = []
    for name in config.transfer.files:
        try:
            digests.append(file_digest(Path(name)))
        except OSError as error:
            raise _unreadable(Path(name), error) from None
    return digest(digests) if digests else None


def describe(built: TransferSet) -> None:
    """Say what a transfer set holds and what was kept out of it."""
    counts = ", ".join(f"{count:,} {kind}" for kind, count in built.counts.items())
    print_line(
        f"transfer set: {counts}; left out: {built.dropped['held-out']:,} like a text that is held out, "
        f"{built.dropped['repeated']:,} that were there already"
    )


class _New:
    """What is new among texts: no training text, and unlike all that are held out.

    Attributes:
        kept: It, with its source.
        repeated: How many were known already.
        like_held_out: How many are like a text that is held out.
    """

    def __init__(self, corpus: Corpus, similarity: float) -> None:
        self._held_out, self._similarity = _held_out(corpus), similarity
        self._known = set(corpus.train.items)
        self.kept: dict[Pair, str] = {}
        self.repeated = self.like_held_out = 0

    def add(self, found: Found) -> None:
        """Keep what is new of `found`."""
        new: dict[Pair, str] = {}
        for pair, source in found:
            if pair in self._known:
                self.repeated += 1
            else:
                self._known.add(pair)
                new[pair] = source
        like = near([_joined(pair) for pair in new], self._held_out, self._similarity)
        self.like_held_out += int(like.sum())
        self.kept.update(item for item, dropped in zip(new.items(), like, strict=True) if not dropped)


def _perturbed(config: PotstillConfig, texts: list[str]) -> Found:
    for text, kind in perturb(texts, config.transfer.perturbed, config.transfer.seed):
        yield (text, None), f"perturbed:{kind}"


def _read(path: Path, config: PotstillConfig, *, in_pairs: bool) -> Found:
    """Read a file of unlabelled text; what other columns it has is ignored."""
    if not path.is_file():
        raise DataError("expected a file of texts, found none", file=path, remedy="check transfer.files")
    data = config.data
    columns = (data.text_column, data.pair_column) if in_pairs and data.pair_column else (data.text_column,)
    layout = stream.Layout(stream.format_by_suffix(path), in_pairs, columns)
    try:
        with path.open("rb") as file:
            for item in stream.read(file, layout, str(path)):
                if isinstance(item, stream.Broken):
                    raise DataError(item.problem, file=path, line=item.line, remedy="mend the line, or leave it out")
                pair = (item.value, None) if isinstance(item.value, str) else item.value
                yield pair, f"file:{path.name}"
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"expected a file of texts, found none that can be read ({error.strerror})", file=path, remedy="check it"
    )


def _sampled(config: PotstillConfig, corpus: Corpus, directory: Path) -> Found:
    """Sample from the tuned language model: each class in turn, until there are equally many new texts of all."""
    wanted, names = config.transfer.sampled, corpus.label_names
    share, more = divmod(wanted, len(names))
    lacking = {label: share + (label < more) for label in range(min(wanted, len(names)))}
    samples = _Samples(config, corpus, directory)
    known = set(corpus.train.items)
    begun = ended = distinct = 0
    batches = samples.batches(_turns(len(names), lacking))
    with progress_bar() as progress, closing(batches):
        task = progress.add_task("sampling", total=wanted, loss="", scores="")
        for number, batch in batches:
            label = number % len(names)
            if label not in lacking:
                continue  # drawn while the class's last ones were
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
            if not lacking:
                break
    if distinct < wanted:
        warn(
            f"the language model hardly writes anything new any more: {distinct:,} of {wanted:,} texts sampled; of "
            f"{begun:,} begun {ended:,} ended in time and in the right form. More training texts, a higher "
            "--sampling-temperature or --top-p give more that is new, a higher --max-tokens more that ends."
        )


def _turns(classes: int, lacking: Mapping[int, int]) -> Iterator[int]:
    """Number batches, of each class in turn, while any lacks texts; leave out the numbers of those that lack none."""
    number = 0
    while lacking:
        if number % classes in lacking:
            yield number
        number += 1


class _Samples:
    """Batches of sampled texts, each kept on disk as soon as it is there; the language model is tuned when asked.

    What is found damaged is made again, the same.

    Attributes:
        batch_size: Texts that are begun at once; what is not finished in time is no part of the batch.
    """

    def __init__(self, config: PotstillConfig, corpus: Corpus, directory: Path) -> None:
        self._config, self._corpus, self._directory = config, corpus, directory
        self._model: LanguageModel | None = None
        most = BATCH if make_fabric(config.runtime).device.type == "cpu" else GPU_BATCH
        self.batch_size = min(most, max(_FEWEST, -(-config.transfer.sampled // len(corpus.label_names))))

    def batches(self, numbers: Iterator[int]) -> Generator[tuple[int, list[Pair]]]:
        """Yield the batches of these numbers, drawn before or now; number by number, each class is asked for in turn.

        The next number is asked for when a batch has been taken, or earlier, where several processes draw.
        """
        for number in numbers:
            if (kept := read_arrays(self._path(number))) is None:
                break
            yield number, self._parsed(kept)
        else:
            return
        model = self._tuned()
        is_large = count_parameters(model.model)[0] >= _WORTH_FORKING
        processes = available_workers(model.fabric.device) if is_large else 1
        asked, drawn = itertools.tee(itertools.chain([number], numbers))
        with workers(self._drawn, processes) as compute:
            yield from zip(asked, map(self._parsed, compute(drawn)), strict=False)

    def _drawn(self, number: int) -> Arrays:
        """Return the texts of a batch, which is drawn if it is not there."""
        if (kept := read_arrays(self._path(number))) is None:
            settings, names = self._config.transfer, self._corpus.label_names
            model = self._tuned()
            used_up = memory_explained(
                lambda: f"while {self.batch_size:,} texts of up to {model.max_tokens} tokens are sampled at once",
                "end what else uses the memory, then the same command goes on with what was sampled; or begin anew "
                "with a lower max_tokens, or where there is more memory, with --device",
            )
            with used_up:
                texts = list(
                    model.sample(
                        names[number % len(names)],
                        self.batch_size,
                        temperature=settings.temperature,
                        top_p=settings.top_p,
                        seed=(settings.seed << 32) + number,
                    )
                )
            kept = {"texts": np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)}
            write_arrays(self._path(number), kept)
        return kept

    def _path(self, number: int) -> Path:
        return self._directory / _SAMPLES / f"{number:06}"

    def _parsed(self, kept: Arrays) -> list[Pair]:
        return list(self._split(json.loads(kept["texts"].tobytes())))

    def _split(self, texts: Iterable[str]) -> Iterator[Pair]:
        """Yield what is well formed: one line, or two where texts come in pairs."""
        for text in texts:
            lines = [line.strip() for line in text.split(SEPARATOR)]
            if all(lines) and len(lines) == 1 + self._corpus.in_pairs:
                yield lines[0], lines[1] if self._corpus.in_pairs else None

    def _tuned(self) -> LanguageModel:
        if self._model is None:
            self._model = LanguageModel.load(self._config)
            path = self._directory / _LANGUAGE_MODEL
            if (kept := read_arrays(path)) is None:
                self._model.tune(self._config, self._corpus, self._directory / HISTORY_FILE)
                trained = self._model.trained.items()
                write_arrays(path, {name: weight.detach().cpu().numpy() for name, weight in trained})
            else:
                self._model.restore({name: torch.from_numpy(array) for name, array in kept.items()})
            (self._directory / CHECKPOINT_FILE).unlink(missing_ok=True)
            self._model.merge()
        return self._model


def _joined(pair: Pair) -> str:
    return pair[0] if pair[1] is None else SEPARATOR.join((pair[0], pair[1]))
