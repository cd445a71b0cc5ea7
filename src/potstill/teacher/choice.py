"""Multiple choice for a language model: a short code for each class, and the classes' probabilities from its answers.

The codes are such that in most tokenizers one token decides: digits, or letters; of more classes, numbers of equal
length, whose digits may be tokens of their own.

Where several classes may apply to a text, the answer lists their codes in ascending order and ends with a code of its
own (`end_of`): "03, 17, 00". So one short request tells of every class, where a question for each would take as many
requests as there are classes: with each code, the model says yes to this class and no to those that it passes over, and
the tokens' probabilities say how surely (`several_from_logprobs`). Without these, the lists of samples are counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import exp
from string import ascii_uppercase
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from potstill.teacher.chat import Position
from potstill.teacher.untuned import LEAST

_LETTERS: Final = [letter for letter in ascii_uppercase if letter not in "AI"]
"""Without those that are words, with which a sentence may begin ("I can't")."""
_AROUND: Final = " \t\r\n\"'`*_()[]:.,;"
"""What a model may write around a code."""
_THOUGHT: Final = "</think>"
"""What ends the thoughts of models that write them into their answers."""
_FEWEST: Final = 0.05
"""With less probability on all codes together, an answer names no class."""


def codes_of(classes: int) -> tuple[str, ...]:
    """Return a code for each class; none begins with another one."""
    if classes <= 9:
        return tuple(str(number + 1) for number in range(classes))
    if classes <= len(_LETTERS):
        return tuple(_LETTERS[:classes])
    return tuple(f"{number:0{len(str(classes))}}" for number in range(1, classes + 1))


def end_of(codes: Sequence[str]) -> str:
    """Return the code that ends a list, and alone says that no class applies."""
    return "0" * len(codes[0])


def class_in(text: str, codes: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the index of the class that an answer names by its code or name; None: it names none, or says more."""
    text = text.rpartition(_THOUGHT)[2].strip(_AROUND)
    places = {name.casefold(): place for place, name in enumerate(names)}
    places |= {code.casefold(): place for place, code in enumerate(codes)}
    found = [text]  # alone, or as in "2: good", "Answer: 2"
    found += re.findall(r"^(\w+)\s*[:.)–-]", text)
    found += re.findall(r"^(?:the )?(?:answer|class)(?: is)?\W+(\w+)$", text, re.IGNORECASE)
    return next((places[one.casefold()] for one in found if one.casefold() in places), None)


def classes_in(text: str, codes: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Return the indices of the classes that an answer lists, maybe none; None: it lists none, or says more."""
    parts = re.split("[,;\n]", text.rpartition(_THOUGHT)[2].strip(_AROUND))
    others = () if "none" in map(str.casefold, names) else ("none",)
    found = {class_in(part, (*codes, end_of(codes)), (*names, *others)) for part in parts}
    return None if None in found else sorted(place for place in found if place is not None and place < len(codes))


def from_samples(samples: Sequence[Sequence[int] | None], codes: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the probabilities of classes by how often samples name each, (classes,); None: none can be read.

    One answer is added that all classes share, so that none is impossible (additive smoothing).
    """
    read = [places for places in samples if places is not None]
    if not read:
        return None
    counts = np.bincount(np.array([*chain(*read)], dtype=np.int64), minlength=len(codes))
    shares: NDArray[np.float64] = (counts + 1 / len(codes)) / (len(read) + 1)
    return shares


def from_logprobs(positions: Sequence[Position], codes: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the classes' probabilities by those of an answer's tokens, (classes,); None: it names no class."""
    if (place := _begin(positions, codes)) is None:
        return None
    masses = np.maximum(_Code.read(positions[place:], codes).masses, LEAST)
    shares: NDArray[np.float64] = masses / masses.sum()
    return shares


def several_from_logprobs(positions: Sequence[Position], codes: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the probability that each class applies, (classes,), by the tokens of an answer that lists their codes.

    With p(d) the probability that d is the next code, and e the classes between the last code and d,
    P(d applies | what is listed) = p(d) / (1 - Σ_e p(e)). It is that of a classifier chain along its most probable path
    (Dembczyński, Cheng and Hüllermeier 2010, "Bayes Optimal Multilabel Classification via Probabilistic Classifier
    Chains", section 3): the product over all classes is the probability of this very answer.

    Returns:
        None if it names neither a class nor the end. Where a list has no end, classes behind its last code have the
        probability of having been this code.
    """
    options = (*codes, end_of(codes))
    if (place := _begin(positions, options)) is None:
        return None
    shares, masses, decided = np.zeros(len(codes)), np.zeros(len(options)), 0
    while decided <= len(codes):
        reached = 1.0  # of no other end
        while place < len(positions) and not positions[place].token.strip(_AROUND):
            reached, place = reached * exp(positions[place].logprob), place + 1
        if place == len(positions):
            shares[decided:] = masses[decided:-1]
            break
        code = _Code.read(positions[place:], options)
        masses, place = code.masses * (reached if decided else 1 / code.masses.sum()), place + code.length
        passed = slice(decided, min(code.chosen + 1, len(codes)))
        left = 1 - np.cumsum(masses[passed]) + masses[passed]
        shares[passed] = masses[passed] / np.maximum(left, masses[passed] + LEAST)
        if code.chosen < decided:  # out of order
            shares[code.chosen] = max(shares[code.chosen], masses[code.chosen])
        decided = max(decided, code.chosen + 1)
    return shares


def _begin(positions: Sequence[Position], codes: Sequence[str]) -> int | None:
    """Return the position where an answer's codes begin; None: it has none.

    Where it begins with other words, the first one counts that most probably holds a code.
    """
    text, first = "", 0
    for number, position in enumerate(positions):
        text += position.token
        if _THOUGHT in text:
            text, first = "", number + 1
    if text.lstrip().startswith("<think>"):
        return None  # it was cut while it thought

    def known(place: int) -> float:
        return _Code.read(positions[place:], codes).known

    found = next((place for place in range(first, len(positions)) if known(place) >= 0.5), first)
    return found if first < len(positions) and known(found) >= _FEWEST else None


@dataclass(frozen=True)
class _Code:
    """What tokens say about the code that they begin with.

    Attributes:
        masses: The probability of each code, (codes,).
        known: That of all codes together among the most probable tokens.
        chosen: The code that was chosen; the last one where it is none.
        length: Number of its tokens.
    """

    masses: NDArray[np.float64]
    known: float
    chosen: int
    length: int

    @classmethod
    def read(cls, positions: Sequence[Position], codes: Sequence[str]) -> Self:
        """Add up the probability of each code at the beginning of `positions`.

        A code of several tokens is followed along the answer. Where another token was possible, the codes that begin
        with it share its probability.
        """
        masses, path, probability, length = np.zeros(len(codes)), "", 1.0, 0
        least = min((exp(token.logprob) for token in positions[0].top_logprobs), default=exp(positions[0].logprob))
        for position in positions:
            others = {token.token: token.logprob for token in position.top_logprobs} | {
                position.token: position.logprob
            }
            for token, logprob in others.items():
                begun = (path + token).strip(_AROUND)
                places = [place for place, code in enumerate(codes) if begun and code.startswith(begun)]
                if places and (token != position.token or codes[places[0]] == begun):
                    masses[places] += probability * exp(logprob) / len(places)
            path, probability, length = path + position.token, probability * exp(position.logprob), length + 1
            begun = path.strip(_AROUND)
            if begun in codes or not any(code.startswith(begun) for code in codes):
                break
        known, unseen = float(masses.sum()), masses == 0
        if unseen.any():  # not among the most probable tokens, so less probable than those
            masses[unseen] = min(least, max(0.0, 1 - known) / unseen.sum())
        return cls(masses, known, codes.index(begun) if begun in codes else len(codes) - 1, length)
