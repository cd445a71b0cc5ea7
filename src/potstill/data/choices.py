"""Seeded random choices that are the same with every version of Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Chooses at random, the same for the same seed.

    All choices come from `Random.random`, the one method whose sequence Python promises to keep between versions.
    """

    def __init__(self, seed: str | int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret depends on it, and it must be repeatable

    def below(self, bound: int) -> int:
        """Draw a whole number from 0 to `bound` - 1."""
        return int(self._random.random() * bound)

    def pick(self, options: Sequence[T]) -> T:
        """Choose one option."""
        return options[self.below(len(options))]

    def two(self, options: Sequence[T]) -> tuple[T, T]:
        """Choose two different options, in random order."""
        first = self.below(len(options))
        second = (first + 1 + self.below(len(options) - 1)) % len(options)
        return options[first], options[second]
