"""Perturbed sentences: small damage to known ones, of the kinds that separate good sentences from bad.

Swapping, dropping and inserting words are the operations of Wei and Zou 2019, "EDA: Easy Data Augmentation" (arXiv
1901.11196); replacing a word by one of its own kind is that of Tang et al. 2019, "Distilling Task-Specific Knowledge
from BERT into Simple Neural Networks" (arXiv 1903.12136). There a perturbed sentence keeps its label, or gets the
teacher's; here always the latter, so that damage which changes the class does no harm: it is what there is to learn.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from potstill.data.grammar.lexicon import FUNCTION_WORDS
from potstill.data.grammar.morphology import with_s
from potstill.data.grammar.sampling import Choices

Kind = Literal["swap", "drop", "replace", "insert", "join", "agreement"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""What can be done: swap two neighbouring words, drop a word, replace one by another of the texts, insert one of the
texts, join the beginning of a text and the end of another, change the number of a word."""

ATTEMPTS = 100
"""Fruitless draws in a row after which a kind has nothing new left: while a twentieth of what it can make is new, it
is given up too early once in 170 times."""

ENDS = " .,:;!?…\"'”’»)]}。！？।؟"
"""What stays at the end of a sentence, whatever becomes of its last word."""
MARKS = ENDS + "“„‘«([{¿¡"
"""What may stand around a word, and stays where it is when the word is replaced."""

SHORT = 3
"""Letters of a short word. They are mostly function words, which replace each other."""
SUFFIXES = ("ing", "ed", "ly", "er", "s", "n't")
"""Endings that tell kinds of English words apart, first come, first served."""

_NUMBERS = (
    "is are, was were, has have, does do, isn't aren't, wasn't weren't, hasn't haven't, doesn't don't, am are, "
    "this these, he they, she they, it they, him them, his their, its their, he's they're, she's they're, "
    "it's they're, himself themselves, herself themselves, itself themselves, myself ourselves, yourself yourselves, "
    "each all, every all, much many, man men, woman women, child children, person people, foot feet, tooth teeth, "
    "mouse mice, goose geese, wife wives, knife knives, life lives, leaf leaves, wolf wolves, shelf shelves, "
    "thief thieves, gentleman gentlemen, policeman policemen"
)
"""Singular and plural of what does not take a regular -s, or takes it although it is a function word."""
_UNNUMBERED = FUNCTION_WORDS | {"your", "our", "their", "toward", "beside", "sometime", "afterward", "new", "down"}
"""What has no -s of number, though the same word with one may exist: "her" and "hers"."""


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence in parts.

    Attributes:
        words: What white space divides. The first is written as within a sentence, where the texts show how that is.
        end: The marks behind the last word.
        capital: Whether the sentence begins with a capital letter.
    """

    words: tuple[str, ...]
    end: str
    capital: bool

    def text(self, words: Sequence[str]) -> str | None:
        """Write this sentence with other words, as `_write` does."""
        return _write(words, self.end, self.capital)


def perturb(texts: Iterable[str], count: int, seed: int, kinds: Collection[Kind] = KINDS) -> Iterator[tuple[str, Kind]]:
    """Make new texts out of known ones.

    The kinds take turns, so that their shares are equal until one has nothing new left; then the others go on.
    Sentences are drawn evenly, words as often as they occur. Number is changed in English words only.

    Args:
        texts: The known texts, of any language. Runs of white space count as one space.
        count: How many to make. There are fewer where the texts don't have as many in them.
        seed: Decides all that is drawn.
        kinds: What may be done.

    Yields:
        A text that is none of `texts` and none of those before, and what was done. White space in it is single spaces.
    """
    known = dict.fromkeys(" ".join(text.split()) for text in texts)  # keeps the order, which decides what is drawn
    seen = set(known)
    makers = {kind: make for kind, make in _Perturber(tuple(known), seed).makers().items() if kind in kinds}
    made = 0
    while makers:
        for kind in tuple(makers):
            if made >= count:
                return
            drawn = (makers[kind]() for _ in range(ATTEMPTS))
            new = next((text for text in drawn if text is not None and text not in seen), None)
            if new is None:
                del makers[kind]
                continue
            seen.add(new)
            made += 1
            yield new, kind


class _Perturber:
    """Draws one perturbation at a time, new or not."""

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        self._draw = Choices(seed)
        self._sentences = _parse(texts)  # those with a word
        self._longer = [sentence for sentence in self._sentences if len(sentence.words) > 1]
        words = [core for sentence in self._sentences for word in sentence.words if (core := word.strip(MARKS))]
        self._words = words  # as often as they occur: an even draw is one by frequency
        self._alike: dict[str, list[str]] = defaultdict(list)
        for word in words:
            self._alike[_rough_kind(word)].append(word)
        for rough_kind, alike in self._alike.items():
            if len({word.casefold() for word in alike}) == 1:  # nothing to replace it by
                self._alike[rough_kind] = words
        others = _other_numbers(dict.fromkeys(words))
        self._numbered: list[tuple[_Sentence, list[int]]] = []  # sentences and the places of words with a number
        for sentence in self._sentences:
            places = [place for place, word in enumerate(sentence.words) if word.strip(MARKS) in others]
            if places:
                self._numbered.append((sentence, places))
        self._others = others

    def makers(self) -> dict[Kind, Callable[[], str | None]]:
        """Return what draws a text of each kind that the texts allow; it returns None where nothing came of it."""
        possible: dict[Kind, tuple[bool, Callable[[], str | None]]] = {
            "swap": (bool(self._longer), self._swap),
            "drop": (bool(self._longer), self._drop),
            "replace": (bool(self._words), self._replace),
            "insert": (bool(self._words), self._insert),
            "join": (len(self._longer) > 1, self._join),
            "agreement": (bool(self._numbered), self._agreement),
        }
        return {kind: make for kind, (allowed, make) in possible.items() if allowed}

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
        word = sentence.words[at].strip(MARKS)
        if not word:  # marks alone
            return None
        new = self._draw.pick(self._alike[_rough_kind(word)])
        return None if new.casefold() == word.casefold() else _with_word(sentence, at, new)

    def _insert(self) -> str | None:
        sentence = self._draw.pick(self._sentences)
        at = self._draw.below(len(sentence.words) + 1)
        return sentence.text((*sentence.words[:at], self._draw.pick(self._words), *sentence.words[at:]))

    def _join(self) -> str | None:
        beginning, end = self._draw.two(self._longer)
        head = beginning.words[: 1 + self._draw.below(len(beginning.words) - 1)]
        tail = end.words[1 + self._draw.below(len(end.words) - 1) :]
        return _write(head + tail, end.end, beginning.capital)

    def _agreement(self) -> str | None:
        sentence, places = self._draw.pick(self._numbered)
        at = self._draw.pick(places)
        return _with_word(sentence, at, self._draw.pick(self._others[sentence.words[at].strip(MARKS)]))


def _parse(texts: Sequence[str]) -> list[_Sentence]:
    """Take the texts apart; without those that have no word."""
    bodies = [text.rstrip(ENDS) for text in texts]
    split = [tuple(body.split()) for body in bodies]
    inner = Counter(word.strip(MARKS) for words in split for word in words[1:])
    sentences = []
    for text, body, words in zip(texts, bodies, split, strict=True):
        if words:
            within = (_within(words[0], inner), *words[1:])
            sentences.append(_Sentence(within, text[len(body) :], capital=words[0][:1].isupper()))
    return sentences


def _write(words: Sequence[str], end: str, capital: bool) -> str | None:
    """Write a sentence; None where marks would stand before those of its end, as in "he said,."."""
    if words[-1] != words[-1].rstrip(ENDS):
        return None
    first = _capitalised(words[0]) if capital else words[0]
    return " ".join((first, *words[1:])) + end


def _within(first: str, inner: Counter[str]) -> str:
    """Write a sentence's first word as within one: "The" as "the", but "John" and "I" as they are.

    Args:
        first: The word.
        inner: How often each word stands elsewhere than first.
    """
    lower = first[:1].lower() + first[1:]
    known = inner[lower.strip(MARKS)]
    return lower if _capitalised(lower) == first and known and known >= inner[first.strip(MARKS)] else first


def _capitalised(word: str) -> str:
    """Begin the word with a capital, where that is one letter which can be made small again (not so "ß" and "ı")."""
    capital = word[:1].upper()
    return capital + word[1:] if capital.lower() == word[:1] else word


def _with_word(sentence: _Sentence, place: int, new: str) -> str | None:
    """Put a word in the place of another, which is more than marks, between the same marks."""
    old = sentence.words[place]
    before, _, after = old.partition(old.strip(MARKS))
    return sentence.text((*sentence.words[:place], before + new + after, *sentence.words[place + 1 :]))


def _rough_kind(word: str) -> str:
    """Sort words by their looks: numbers, names, short words, English endings, other words."""
    if any(character.isdigit() for character in word):
        return "number"
    if word[:1].isupper():
        return "name"
    if len(word) <= SHORT:
        return "short"
    return next((suffix for suffix in SUFFIXES if word.endswith(suffix)), "other")


def _other_numbers(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Find what each word is in the other number.

    Function words and irregular nouns are listed. Else two words are the numbers of a noun, or of a verb in the present
    tense, if one is the other with -s, and both are among the words: that a form exists is not known otherwise. Names
    don't count: "Johns" is another name.

    Args:
        words: All different words of the texts, without marks.

    Returns:
        The words that have another number, each with its counterparts, capitalised where the word is.
    """
    listed: dict[str, list[str]] = defaultdict(list)
    for pair in _NUMBERS.split(", "):
        singular, plural = pair.split()
        listed[singular].append(plural)
        listed[plural].append(singular)
    known = dict.fromkeys(words)
    others: dict[str, list[str]] = defaultdict(list)
    for word in known:
        lower = word.lower()
        if lower in listed:
            others[word] = [_capitalised(other) if word != lower else other for other in listed[lower]]
        elif len(word) >= SHORT and word.islower() and word not in _UNNUMBERED and (plural := with_s(word)) in known:
            others[word].append(plural)
            others[plural].append(word)
    return {word: tuple(found) for word, found in others.items()}
