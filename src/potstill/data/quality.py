"""What may be wrong with labelled texts: lengths, scripts, repetition, contradictions, rare classes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from potstill.augment.overlap import joined, near_duplicates, similar_counts
from potstill.data.encoded import class_counts, keys
from potstill.data.examples import Corpus, Examples
from potstill.data.splits import duplicate_groups, normal_item
from potstill.predict.wording import in_one_line, numbered

_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_PIECES = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+|[^\w\s]")
"""A word, a sign, or a letter of a script without spaces between words: each is a token or more, as a rule."""
_SIMILARITY: Final = 0.9
"""That of nearly equal texts, as in `augment.similarity`."""
_COMPARED: Final = 4000
"""Texts of a part that are compared with all others: the time grows with the square."""
_BEGINNING: Final = 500
"""Characters of a text that are compared: the time grows with their square."""
_RARE: Final = 10
"""Classes with fewer texts are rare."""
_SHOWN: Final = 5


def lengths(examples: Examples) -> NDArray[np.int64]:
    """Count the words and signs of each text (or pair), (texts,)."""
    return np.array([sum(len(_PIECES.findall(text)) for text in item if text) for item in examples.items])


def checks(corpus: Corpus, max_length: int) -> Iterator[tuple[str, str]]:
    """Yield the name of each check of a corpus, and what it found in all parts together."""
    every, names = corpus.everything, corpus.label_names
    counts = lengths(every)
    quantiles = "median {:.0f}, 95 % up to {:.0f}, longest {:.0f}".format(*np.quantile(counts, [0.5, 0.95, 1]))
    over = numbered(int((counts > max_length).sum()), "text has", "texts have")
    yield "lengths", f"{quantiles} words and signs, of a token or more each; {over} more than max_length {max_length}"
    yield "scripts", ", ".join(f"{name} {share:.1%}" for name, share in scripts(every.all_texts).items())
    sizes = Counter(dict(enumerate(class_counts(every.labels, corpus.num_classes).tolist())))
    if corpus.is_multi_label:
        numbers = Counter((every.labels == 1).sum(axis=1).tolist())
        yield "labels of a text", ", ".join(f"{number}: {count:,}" for number, count in sorted(numbers.items()))
        yield "texts of each class", ", ".join(f"{names[label]} {count:,}" for label, count in sizes.most_common())
    groups = duplicate_groups(every.items)
    _, first = np.unique(groups, return_index=True)
    yield "repeated texts", _found(every, np.setdiff1d(np.arange(len(every)), first))
    labels = defaultdict(set)
    for group, label in zip(groups.tolist(), keys(every.labels), strict=True):
        labels[group].add(label)
    yield (
        "repeated texts with other labels",
        _found(every, [place for place in first if len(labels[groups[place]]) > 1]),
    )
    learnt = corpus.train.joined(corpus.validation)
    known = set(map(normal_item, learnt.items))
    shared = np.array([normal_item(item) in known for item in corpus.test.items], dtype=np.bool_)
    yield "test texts that are training or validation texts", _found(corpus.test, np.flatnonzero(shared))
    sample, others = _joined(corpus.test)[:_COMPARED], _joined(learnt)[: 10 * _COMPARED]
    like = near_duplicates(sample, others, _SIMILARITY) & ~shared[:_COMPARED]
    yield "test texts nearly like these", _found(corpus.test, np.flatnonzero(like), len(sample))
    unique = every.take(np.sort(first))
    texts = _joined(unique)[:_COMPARED]
    near = np.flatnonzero(similar_counts(texts, texts, _SIMILARITY) > 1)
    yield "different texts that are nearly alike", _found(unique, near, len(texts))
    rare = [f"{names[label]!r} ({count:,})" for label, count in sizes.most_common()[::-1] if 0 < count < _RARE]
    more = f" and {len(rare) - _SHOWN:,} more" if len(rare) > _SHOWN else ""
    yield f"classes with fewer than {_RARE} texts", (", ".join(rare[:_SHOWN]) or "none") + more


def _found(examples: Examples, places: Sequence[int] | NDArray[np.int64], compared: int | None = None) -> str:
    """Say how many texts were found, and show the first."""
    total = len(examples) if compared is None else compared
    if not len(places):
        return "none" if total == len(examples) else f"none of {total:,} compared"
    text = " | ".join(filter(None, examples.items[int(places[0])]))
    return f"{len(places):,} of {total:,}, such as {in_one_line(text)[:100]!r}"


def scripts(texts: Sequence[str]) -> dict[str, float]:
    """Return the share of texts of each script, by the most frequent one among a text's letters."""
    counts: Counter[str] = Counter()
    for text in texts:
        letters = Counter(_script(character) for character in text if character.isalpha())
        counts[letters.most_common(1)[0][0] if letters else "no letters"] += 1
    return {name: count / len(texts) for name, count in counts.most_common()}


@cache
def _script(letter: str) -> str:
    """Return the script of a letter, with which its name begins: LATIN SMALL LETTER A."""
    name = unicodedata.name(letter, "unknown").split()[0]
    return name if name == "CJK" else name.capitalize()


def _joined(examples: Examples) -> list[str]:
    """Return the beginnings of texts."""
    return [joined(item)[:_BEGINNING] for item in examples.items]
