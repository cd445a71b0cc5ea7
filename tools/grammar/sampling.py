"""Choice of words, and the small phrases that many phenomena share."""

from __future__ import annotations

from collections.abc import Sequence

from potstill.data.choices import Choices, T
from tools.grammar.lexicon import Lexicon

# The acceptable sentence, then the unacceptable one.
Pair = tuple[str, str]


class Draw(Choices):
    """Chooses words from one lexicon."""

    def __init__(self, words: Lexicon, seed: str) -> None:
        super().__init__(seed)
        self.words = words

    def flip(self) -> bool:
        """Toss a fair coin."""
        return self.below(2) == 1

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in random order (Fisher and Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

    def person(self) -> str:
        """Choose a singular subject or object, a noun with its article or a name."""
        return self.two_people()[0]

    def two_people(self) -> tuple[str, str]:
        """Choose two singular people that differ, each a noun with its article or a name."""
        nouns = self.two(self.words.people)
        names = self.two(self.words.male_names + self.words.female_names)
        first, second = (
            name if self.below(3) == 0 else f"the {noun.singular}" for noun, name in zip(nouns, names, strict=True)
        )
        return first, second

    def thing(self) -> str:
        """Choose a thing with the definite article."""
        return f"the {self.pick(self.words.things).singular}"

    def place(self) -> str:
        """Choose where somebody or something is."""
        return f"in the {self.pick(self.words.places)}"


def sentence(text: str, end: str = ".") -> str:
    """Give a sentence its capital and its full stop."""
    return text[0].upper() + text[1:] + end


def fill(frame: str, right: str, wrong: str, end: str = ".") -> Pair:
    """Fill the gap of one frame with the right and with the wrong words."""
    return sentence(frame.format(right), end), sentence(frame.format(wrong), end)


def question(text: str) -> str:
    """Give a sentence its capital and its question mark."""
    return sentence(text, "?")
