"""Building an unlabelled set: texts from all sources, without those that resemble held-out texts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from potstill.augment.language_model import check_writer
from potstill.augment.overlap import joined, near_duplicates
from potstill.augment.perturb import perturb
from potstill.augment.sampling import Found, Pair, clear_samples, sample_texts
from potstill.augment.snippets import spans, vocabulary_words, words
from potstill.augment.unlabelled import UnlabelledSet
from potstill.config import PotstillConfig
from potstill.console import print_line
from potstill.data import Corpus
from potstill.errors import ConfigError, DataError
from potstill.predict import stream
from potstill.predict.directory import UNLABELLED_FILE
from potstill.predict.files import ALL_TABLES, open_table
from potstill.store.checksums import digest, file_digest
from potstill.teacher.backbone.sources import load_tokenizer
from potstill.teacher.transformer import transformer_settings
from potstill.training.deadline import is_over


def build_unlabelled_set(config: PotstillConfig, corpus: Corpus, directory: Path) -> UnlabelledSet:
    """Build the unlabelled set that `config.augment` describes, or resume an interrupted call.

    Only the training texts of `corpus` are learnt from; texts like its validation and test texts are left out.
    `directory` gets `unlabelled.parquet`, and until then what an interrupted call needs. An existing set is returned
    unchecked, with its logits where it has any: `run_directory` makes sure that it is of the same settings. The set is
    empty where a teacher's file of probabilities, the only source, holds no new texts.

    Raises:
        DataError: A file can't be read.
        ConfigError: Pairs of texts are to be perturbed; no text is left; or see `check_writer`.
        SourceError: See `check_writer`.
    """
    if (directory / UNLABELLED_FILE).is_file():
        clear_samples(directory)  # a call may have been interrupted before it did
        return UnlabelledSet.load(directory)
    _check_makers(config, corpus)
    directory.mkdir(parents=True, exist_ok=True)
    settings, new = config.augment, _New(corpus, config.augment.similarity)
    for name in settings.files:
        new.add(_read(Path(name), config, in_pairs=corpus.in_pairs))
    late = {}
    if settings.sampled:
        before = len(new.kept)
        new.add(sample_texts(config, corpus, directory))
        if is_over():
            late = {"time limit": settings.sampled - (len(new.kept) - before)}
    if settings.perturbed:
        # Of the new texts only those that were kept: a perturbed held-out text may no longer be like it.
        texts = [*corpus.train.texts, *(text for text, _ in new.kept)]
        perturbed = perturb(texts, settings.perturbed, settings.seed)
        new.add(((text, None), f"perturbed:{kind}") for text, kind in perturbed)
    if not corpus.in_pairs:
        new.add(_snippets(config, corpus))
    left_out = f"{new.like_held_out:,} similar to a validation or test text, {new.repeated:,} duplicates"
    if not new.kept and settings.files != (getattr(config.teacher, "file", None),):  # it may hold no other texts
        problem = f"expected new texts, found none (left out: {left_out})"
        raise ConfigError([f"augment: {problem}; name other files, or sample or perturb texts, or take words or spans"])
    built = UnlabelledSet(
        texts=tuple(text for text, _ in new.kept),
        pairs=tuple(second or "" for _, second in new.kept) if corpus.in_pairs else None,
        sources=tuple(new.kept.values()),
        dropped={"held-out": new.like_held_out, "repeated": new.repeated} | late,
        held_out=held_out_key(corpus),
    )
    built.save(directory / UNLABELLED_FILE)
    clear_samples(directory)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in built.counts.items()) or "no texts"
    print_line(f"unlabelled set: {counts}; left out: {left_out}")
    return built


def check_augment(config: PotstillConfig, corpus: Corpus) -> None:
    """Refuse what can't be built, before a teacher is tuned. Errors as for `build_unlabelled_set`."""
    _check_makers(config, corpus)
    for name in config.augment.files:
        deque(_read(Path(name), config, in_pairs=corpus.in_pairs), maxlen=0)  # reads to the end, keeps nothing


def _snippets(config: PotstillConfig, corpus: Corpus) -> Found:
    """Yield words and spans of the training texts."""
    settings, texts = config.augment, corpus.train.texts
    if settings.words:
        name = getattr(config.teacher, "backbone", None) or transformer_settings(config).backbone
        tokenizer = load_tokenizer(name).backend_tokenizer
        for word in words(texts, settings.words, vocabulary_words(tokenizer)):
            yield (word, None), "words:"
    for span in spans(texts, settings.spans, settings.seed):
        yield (span, None), "spans:"


def held_out_key(corpus: Corpus) -> str:
    """Return a digest of the texts that an unlabelled set for `corpus` must not resemble."""
    return digest(sorted(_held_out(corpus)))


def files_key(config: PotstillConfig) -> str | None:
    """Return a digest of the content of `augment.files` and a teacher's file; None where there are none.

    Raises:
        DataError: One of them can't be read.
    """
    digests = []
    files = dict.fromkeys((*config.augment.files, getattr(config.teacher, "file", None)))
    for path in (Path(name) for name in files if name is not None):
        with _read_errors(path):
            digests.append(file_digest(path))
    return digest(digests) if digests else None


def _check_makers(config: PotstillConfig, corpus: Corpus) -> None:
    if config.augment.perturbed and corpus.in_pairs:
        raise ConfigError(["augment.perturbed: single texts can be perturbed, pairs can't; leave it at 0"])
    made = [name for name in ("words", "spans", "sampled", "perturbed") if getattr(config.augment, name)]
    if config.teacher.kind == "file" and made:
        names = ", ".join(f"augment.{name}" for name in made)
        raise ConfigError([f"{names}: a teacher that is a file has no answers to texts that are made; leave it at 0"])
    if config.augment.sampled:
        if corpus.is_multi_label:
            raise ConfigError(["augment.sampled: texts are written for one class each, and these have several; set 0"])
        check_writer(config)


class _New:
    """Texts (`kept`, with their sources) that are no training texts and unlike all held-out ones."""

    def __init__(self, corpus: Corpus, similarity: float) -> None:
        self._held_out, self._similarity = _held_out(corpus), similarity
        self._known = set(corpus.train.items)
        self.kept: dict[Pair, str] = {}
        self.repeated = self.like_held_out = 0

    def add(self, found: Found) -> None:
        """Keep the new ones of `found`."""
        new: dict[Pair, str] = {}
        for pair, source in found:
            if pair in self._known:
                self.repeated += 1
            else:
                self._known.add(pair)
                new[pair] = source
        like = near_duplicates([joined(pair) for pair in new], self._held_out, self._similarity)
        self.like_held_out += int(like.sum())
        self.kept.update(item for item, dropped in zip(new.items(), like, strict=True) if not dropped)


def _held_out(corpus: Corpus) -> list[str]:
    return [joined(pair) for part in (corpus.validation, corpus.test) for pair in part.items]


def _read(path: Path, config: PotstillConfig, *, in_pairs: bool) -> Found:
    """Read a file of unlabelled text; other columns are ignored."""
    if not path.is_file():
        raise DataError("expected a file of texts, found none", file=path, remedy="check augment.files")
    data = config.data
    columns = (data.text_column, data.pair_column) if in_pairs and data.pair_column else (data.text_column,)
    with _read_errors(path), path.open("rb") as file:
        content, name, notes = open_table(file, str(path), ALL_TABLES)
        for note in notes:
            print_line(f"{path}: {note}")
        layout = stream.Layout(stream.format_by_suffix(Path(name)), in_pairs, columns)
        for item in stream.read(content, layout, str(path)):
            if isinstance(item, stream.Broken):
                raise item.error(str(path))
            pair = (item.value, None) if isinstance(item.value, str) else item.value
            yield pair, f"file:{path.name}"


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"expected a file of texts, found none that can be read ({error.strerror})"
        raise DataError(problem, file=path, remedy="check it") from None
