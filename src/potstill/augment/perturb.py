"""Perturbed sentences: new texts made by small changes to known ones.

Swapping, dropping and inserting words are the operations of Wei and Zou 2019, "EDA: Easy Data Augmentation" (arXiv
1901.11196); replacing a word by one of its own kind is that of Tang et al. 2019, "Distilling Task-Specific Knowledge
from BERT into Simple Neural Networks" (arXiv 1903.12136). The teacher labels the perturbed texts, so a change may well
alter a text's class.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from potstill.data.choices import Choices

Kind = Literal["swap", "drop", "replace", "insert", "join"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""What can be done: swap two neighbouring words, drop a word, replace one by another of the texts, insert one of the
texts, join the beginning of a text and the end of another."""

_ATTEMPTS: Final = 100
"""Draws without a new text after which a kind is given up: if a twentieth of its texts were new, once in 170 times."""

ENDS: Final = " .,:;!?…\"'”’»)]}。！？।؟"
"""Characters that stay at the end of a sentence when its last word changes."""
MARKS: Final = ENDS + "“„‘«([{¿¡"
"""Characters around a word that stay when the word is replaced."""

_SHORT: Final = 3
"""Letters of a short word. These are mostly function words, which replace each other."""
_SUFFIXES: Final = ("ing", "ed", "ly", "er", "s", "n't")
"""Endings of kinds of English words; the first that fits counts."""


@dataclass(frozen=True, slots=True)
class _Sentence:
    words: tuple[str, ...]  # the first is written as within a sentence, if the texts show how that is
    end: str  # the marks after the last word
    capital: bool

    def text(self, words: Sequence[str]) -> str | None:
        """Write this sentence with other words; None where marks would come before its end, as in "he said,."."""
        if words[-1] != words[-1].rstrip(ENDS):
            return None
        first = _capitalised(words[0]) if self.capital else words[0]
        return " ".join((first, *words[1:])) + self.end


def perturb(texts: Iterable[str], count: int, seed: int, kinds: Collection[Kind] = KINDS) -> Iterator[tuple[str, Kind]]:
    """Make new texts out of known ones.

    The kinds take turns, so that their shares are equal until one has nothing new left; then the others go on.
    Sentences are drawn evenly, words as often as they occur.

    The texts may be of any language; runs of white space in them count as one space. Fewer than `count` are made where
    no kind finds a new one. `seed` decides all draws.

    Yields:
        A text that is none of `texts` and none of those before, and its kind. White space in it is single spaces.
    """
    known = dict.fromkeys(" ".join(text.split()) for text in texts)  # in order, which decides the draws
    seen = set(known)
    makers = {kind: make for kind, make in _Perturber(tuple(known), seed).makers().items() if kind in kinds}
    while makers:
        for kind in tuple(makers):
            if len(seen) - len(known) >= count:
                return
            drawn = (makers[kind]() for _ in range(_ATTEMPTS))
            new = next((text for text in drawn if text is not None and text not in seen), None)
            if new is None:
                del makers[kind]
                continue
            seen.add(new)
            yield new, kind


class _Perturber:
    """Draws one perturbation at a time, new or not."""

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        self._draw = Choices(seed)
        self._sentences = _parse(texts)
        self._longer = [sentence for sentence in self._sentences if len(sentence.words) > 1]
        # As often as they occur: an even draw among them is one by frequency.
        self._words = [core for one in self._sentences for word in one.words if (core := word.strip(MARKS))]
        self._alike: dict[str, list[str]] = defaultdict(list)
        for word in self._words:
            self._alike[_rough_kind(word)].append(word)
        for rough_kind, alike in self._alike.items():
            if len({word.casefold() for word in alike}) == 1:  # no other word of this kind
                self._alike[rough_kind] = self._words

    def makers(self) -> dict[Kind, Callable[[], str | None]]:
        """Return a function for each kind that the texts allow; it returns a text, or None where the draw failed."""
        makers: dict[Kind, Callable[[], str | None]] = {}
        if self._longer:
            makers |= {"swap": self._swap, "drop": self._drop, "join": self._join}
        if self._words:
            makers |= {"replace": self._replace, "insert": self._insert}
        return makers

    def _swap(self) -> str | None:
        sentence = self._draw.pick(self._longer)
        words = [*sentence.words]
        at = self._draw.below(len(words) - 1)
        words[at], words[at + 1] = words[at + 1], words[at]
        return None if words[at].casefold() == words[at + 1].casefold() else sentence.text(words)

    def _drop(self) -> str | None:
        sentence = self._draw.pick(self._longer)
        at = self._draw.below(len(sentence.words))
        return sentence.text(sentence.words[:at] + sentence.words[at + 1 :])

    def _replace(self) -> str | None:
        sentence = self._draw.pick(self._sentences)
        at = self._draw.below(len(sentence.words))
        word = sentence.words[at]
        core = word.strip(MARKS)
        if not core:  # marks alone
            return None
        new = self._draw.pick(self._alike[_rough_kind(core)])
        before, _, after = word.partition(core)
        changed = (*sentence.words[:at], before + new + after, *sentence.words[at + 1 :])
        return None if new.casefold() == core.casefold() else sentence.text(changed)

    def _insert(self) -> str | None:
        sentence = self._draw.pick(self._sentences)
        at = self._draw.below(len(sentence.words) + 1)
        return sentence.text((*sentence.words[:at], self._draw.pick(self._words), *sentence.words[at:]))

    def _join(self) -> str | None:
        beginning, end = self._draw.two(self._longer)
        head = beginning.words[: 1 + self._draw.below(len(beginning.words) - 1)]
        tail = end.words[1 + self._draw.below(len(end.words) - 1) :]
        return replace(beginning, end=end.end).text(head + tail)


def _parse(texts: Sequence[str]) -> list[_Sentence]:
    """Take apart the texts that have a word."""
    bodies = [text.rstrip(ENDS) for text in texts]
    split = [tuple(body.split()) for body in bodies]
    inner = Counter(word.strip(MARKS) for words in split for word in words[1:])
    sentences = []
    for text, body, words in zip(texts, bodies, split, strict=True):
        if words:
            within = (_within(words[0], inner), *words[1:])
            sentences.append(_Sentence(within, text[len(body) :], capital=words[0][:1].isupper()))
    return sentences


def _within(first: str, inner: Counter[str]) -> str:
    """Write a sentence's first word as within one, where `inner` counts words: "The" as "the", but "John" unchanged."""
    lower = first[:1].lower() + first[1:]
    known = inner[lower.strip(MARKS)]
    return lower if _capitalised(lower) == first and known and known >= inner[first.strip(MARKS)] else first


def _capitalised(word: str) -> str:
    """Capitalise the first letter if that can be undone (not so for "ß" and "ı")."""
    capital = word[:1].upper()
    return capital + word[1:] if capital.lower() == word[:1] else word


def _rough_kind(word: str) -> str:
    """Sort words by their looks: numbers, names, short words, English endings, other words."""
    if any(character.isdigit() for character in word):
        return "number"
    if word[:1].isupper():
        return "name"
    if len(word) <= _SHORT:
        return "short"
    return next((suffix for suffix in _SUFFIXES if word.endswith(suffix)), "other")
