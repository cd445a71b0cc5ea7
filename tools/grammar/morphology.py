"""Inflection of the open-class words: regular by rule, irregular as listed in the lexicon."""

from __future__ import annotations

from dataclasses import dataclass

from tools.grammar.english import VOWELS, ends_in_consonant_y, with_s


@dataclass(frozen=True)
class Noun:
    """A countable noun in both numbers."""

    singular: str
    plural: str

    def form(self, plural: bool) -> str:
        """Return the noun in the number asked for."""
        return self.plural if plural else self.singular


@dataclass(frozen=True)
class Verb:
    """A verb in the five forms that English distinguishes."""

    base: str
    third: str
    past: str
    participle: str
    ing: str

    def present(self, plural: bool) -> str:
        """Return the present tense form that agrees with a subject of the number asked for."""
        return self.base if plural else self.third


@dataclass(frozen=True)
class Adjective:
    """A gradable adjective; `comparative` and `superlative` may be two words, as in "more patient"."""

    base: str
    comparative: str
    superlative: str


def noun(entry: str) -> Noun:
    """Read a noun from its entry: "teacher" when regular, "man men" when not."""
    singular, *irregular = entry.split()
    return Noun(singular, irregular[0] if irregular else with_s(singular))


def verb(entry: str) -> Verb:
    """Read a verb from its entry: "praise" when regular, "write wrote written" when not."""
    base, *irregular = entry.split()
    past, participle = irregular or (with_ed(base), with_ed(base))
    ing = base[:-1] + "ing" if base.endswith("e") else base + "ing"
    return Verb(base, with_s(base), past, participle, ing)


def short_adjective(base: str) -> Adjective:
    """Grade an adjective with endings: tall, taller, tallest."""
    stem = base.removesuffix("e")
    return Adjective(base, stem + "er", stem + "est")


def long_adjective(base: str) -> Adjective:
    """Grade an adjective with adverbs: patient, more patient, most patient."""
    return Adjective(base, f"more {base}", f"most {base}")


def with_ed(word: str) -> str:
    """Add the regular past ending. Words that double their last letter must be listed as irregular."""
    if word.endswith("e"):
        return word + "d"
    if ends_in_consonant_y(word):
        return word[:-1] + "ied"
    return word + "ed"


def with_article(phrase: str) -> str:
    """Put "a" or "an" in front. The spelling decides, so the lexicon has no word like "hour" or "uniform"."""
    return f"{'an' if phrase[0] in VOWELS else 'a'} {phrase}"
