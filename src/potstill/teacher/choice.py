"""Multiple choice for a language model: a short code for each class, and the classes' probabilities from its answers.

The codes are such that in most tokenizers one token decides: digits, or letters; of more classes, numbers of equal
length, whose digits may be tokens of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import exp
from string import ascii_uppercase
from typing import Final

import numpy as np
from numpy.typing import NDArray

from potstill.teacher.chat import Position
from potstill.teacher.untuned import LEAST

_LETTERS: Final = [letter for letter in ascii_uppercase if letter not in "AI"]
"""Without those that are words, with which a sentence may begin ("I can't")."""
_AROUND: Final = " \t\r\n\"'`*_()[]:."
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


def class_in(text: str, codes: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the index of the class that an answer names by its code or name; None: it names none, or says more."""
    text = text.rpartition(_THOUGHT)[2].strip(_AROUND)
    places = {name.casefold(): place for place, name in enumerate(names)}
    places |= {code.casefold(): place for place, code in enumerate(codes)}
    found = [text]  # alone, or as in "2: good", "Answer: 2"
    found += re.findall(r"^(\w+)\s*[:.)–-]", text)
    found += re.findall(r"^(?:the )?(?:answer|class)(?: is)?\W+(\w+)$", text, re.IGNORECASE)
    return next((places[one.casefold()] for one in found if one.casefold() in places), None)


def from_samples(places: Sequence[int | None], codes: Sequence[str]) -> NDArray[np.float32] | None:
    """Return log-probabilities of how often samples name each class, (classes,); None: they name none.

    One answer is added that all classes share, so that none is impossible (additive smoothing).
    """
    counts = np.bincount([place for place in places if place is not None], minlength=len(codes))
    if not counts.any():
        return None
    shares: NDArray[np.float64] = (counts + 1 / len(codes)) / (counts.sum() + 1)
    return np.log(shares).astype(np.float32)


def from_logprobs(positions: Sequence[Position], codes: Sequence[str]) -> NDArray[np.float32] | None:
    """Return the classes' log-probabilities by those of an answer's tokens, (classes,); None: it names no class.

    Where the answer begins with other words, the first place counts that most probably holds a code.
    """
    text, first = "", 0
    for number, position in enumerate(positions):
        text += position.token
        if _THOUGHT in text:
            text, first = "", number + 1
    if text.lstrip().startswith("<think>"):
        return None  # it was cut while it thought
    read = [_masses(positions[start:], codes) for start in range(first, len(positions))]
    if not read:
        return None
    masses, least = next((one for one in read if one[0].sum() >= 0.5), read[0])
    if masses.sum() < _FEWEST:
        return None
    unseen = masses == 0
    if unseen.any():  # not among the most probable tokens, so less probable than those
        masses[unseen] = min(least, max(0.0, 1 - masses.sum()) / unseen.sum())
    masses = np.maximum(masses, LEAST)
    shares: NDArray[np.float64] = masses / masses.sum()
    return np.log(shares).astype(np.float32)


def _masses(positions: Sequence[Position], codes: Sequence[str]) -> tuple[NDArray[np.float64], float]:
    """Add up the probability of each class's code at the beginning of `positions`, (classes,).

    A code of several tokens is followed along the answer. Where another token was possible, the codes that begin with
    it share its probability.

    Returns:
        That, and the probability of the least probable token that the server names at the first place.
    """
    masses, path, probability = np.zeros(len(codes)), "", 1.0
    least = min((exp(token.logprob) for token in positions[0].top_logprobs), default=exp(positions[0].logprob))
    for position in positions:
        others = {token.token: token.logprob for token in position.top_logprobs} | {position.token: position.logprob}
        for token, logprob in others.items():
            begun = (path + token).strip(_AROUND)
            places = [place for place, code in enumerate(codes) if begun and code.startswith(begun)]
            if places and (token != position.token or codes[places[0]] == begun):
                masses[places] += probability * exp(logprob) / len(places)
        path, probability = path + position.token, probability * exp(position.logprob)
        begun = path.strip(_AROUND)
        if begun in codes or not any(code.startswith(begun) for code in codes):
            break
    return masses, least
