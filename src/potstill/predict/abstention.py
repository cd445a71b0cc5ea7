"""When a student is sure enough to answer, and which classes it can't rule out: by its answers to the validation split.

The texts of that split are taken to be like those to come. A student's temperature and epoch may be chosen on it too,
which makes its errors there look a little rarer than they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from potstill.errors import ArtifactError, UnpromisedError
from potstill.predict.decision import confidence

RISK: Final = 0.05
"""How probable it may be, over the choice of the validation texts, that a bound on the error does not hold."""
_STARTS: Final = (0.25, 0.5, 0.75)
"""Shares of the surest texts from which a bound on the error is tried on more and more of them."""
_STEPS: Final = 100_000
"""Probabilities are rounded down to multiples of 1 / `_STEPS`, and so are thresholds: both find the same texts."""
_MOST_TEXTS: Final = 2000
"""Of a larger split, so many are drawn, which keeps a manifest short."""

Probabilities = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ValidationAnswers:
    """How sure a student was of its answers to the texts of the validation split; most of them fit in a few kilobytes.

    Attributes:
        right: Probability of each right answer.
        wrong: Of each wrong answer its probability, and that of the label.
    """

    right: tuple[float, ...]
    wrong: tuple[tuple[float, float], ...]

    @classmethod
    def of(
        cls, probabilities: Probabilities, answers: npt.NDArray[np.integer[Any]], labels: npt.NDArray[np.integer[Any]]
    ) -> Self:
        """Note the answers, class indices (texts,), of a student with these probabilities, (texts, classes)."""
        kept = np.random.default_rng(0).permutation(len(labels))[:_MOST_TEXTS]
        ours, theirs = (
            np.floor(confidence(probabilities[kept], of[kept]) * _STEPS) / _STEPS for of in (answers, labels)
        )
        is_right = answers[kept] == labels[kept]
        wrong = zip(ours[~is_right].tolist(), theirs[~is_right].tolist(), strict=True)
        return cls(tuple(sorted(ours[is_right].tolist(), reverse=True)), tuple(sorted(wrong, reverse=True)))

    @classmethod
    def parse(cls, content: Any) -> Self:
        """Read what `dataclasses.asdict` and JSON make of it; a ValueError says that it is something else."""
        try:
            right, wrong = [*content["right"]], [(answer, label) for answer, label in content["wrong"]]
        except (TypeError, KeyError, ValueError):
            raise ValueError("expected lists `right` and `wrong`") from None
        values = [*right, *(value for pair in wrong for value in pair)]
        if not values or not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
            raise ValueError("expected probabilities")
        return cls(tuple(right), tuple(wrong))

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.right) + len(self.wrong)

    def min_confidence(self, coverage: float | None = None, max_error: float | None = None) -> float:
        """Return the least probability of an answer that is given.

        Args:
            coverage: Share of the texts to answer, above 0: the surest of the validation split. New ones are about as
                many.
            max_error: Most errors among the answers, as a share of these, between 0 and 1: as many as possible are
                given while the true share is no larger, with a probability of at least 1 - `RISK` over the choice of
                the validation texts (see `_surest`).

        Raises:
            UnpromisedError: No threshold promises `max_error`.
            ValueError: Not one of both is given, or it is out of its range.
        """
        if (coverage is None) == (max_error is None):
            raise ValueError("expected coverage or max_error, found " + ("neither" if coverage is None else "both"))
        confidences = np.array([*self.right, *(answer for answer, _ in self.wrong)])
        order = np.argsort(-confidences, kind="stable")
        if coverage is not None:
            if not 0 < coverage <= 1:
                raise ValueError(f"expected a coverage above 0 and up to 1, found {coverage}")
            return float(confidences[order][math.ceil(coverage * len(self) - 1e-9) - 1])
        assert max_error is not None
        if not 0 < max_error < 1:
            raise ValueError(f"expected a max_error between 0 and 1, found {max_error}")
        is_wrong = (order >= len(self.right)).astype(np.int64)
        ends = np.flatnonzero(np.append(np.diff(confidences[order]) != 0, True)) + 1  # equally sure ones stay together
        errors = np.cumsum(is_wrong)[ends - 1]
        if (count := _surest(ends, errors, max_error)) is None:
            shares = (percent / 100 for percent in range(math.floor(100 * max_error) + 1, 100))
            possible = next((share for share in shares if _surest(ends, errors, share) is not None), None)
            least = "" if possible is None else f"; the smallest possible one is about {possible:.2f}"
            raise UnpromisedError(
                f"expected a max_error that {len(self):,} validation texts can promise ({len(self.wrong):,} of them "
                f"answered wrongly), found {max_error:g}{least}\n  what to do: raise --max-error, use --coverage "
                "instead, or train with more validation texts"
            )
        return float(confidences[order][count - 1])

    def min_set_probability(self, error: float) -> float:
        """Return the least probability of a class that belongs to a prediction set, by split conformal prediction.

        The score of a text is 1 - p(label); its quantile is the ⌈(n + 1)(1 - error)⌉-th smallest of n (Angelopoulos and
        Bates 2021, "A gentle introduction to conformal prediction", arXiv 2107.07511, section 1; the sets are those of
        Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued classifiers with bounded error levels"). A new
        text's label is in its set with a probability of at least 1 - error, over the choice of all these texts.

        Raises:
            ArtifactError: The error is so small that each set would have to hold every class.
            ValueError: It is not between 0 and 1.
        """
        if not 0 < error < 1:
            raise ValueError(f"expected an error between 0 and 1, found {error}")
        if (rank := math.ceil((len(self) + 1) * (1 - error) - 1e-9)) > len(self):
            raise ArtifactError(
                f"expected an error of at least {1 / (len(self) + 1):.2g}, as the student's {len(self):,} validation "
                f"texts allow, found {error}\n  what to do: allow more, or train with more validation texts"
            )
        return sorted([*self.right, *(label for _, label in self.wrong)])[-rank]


def _surest(counts: npt.NDArray[np.int64], errors: npt.NDArray[np.int64], max_error: float) -> int | None:
    """Return the largest of `counts` for which at most `max_error` errors are sure; None: for none.

    Each count of the surest texts with their errors tests the hypothesis that more than `max_error` of the texts that
    are as sure are answered wrongly: p = P(Bin(count, max_error) ≤ errors), the binomial tail of Geifman and El-Yaniv
    2017, "Selective classification for deep neural networks" (arXiv 1705.08500), lemma 3.1. From each start, counts are
    tried in ascending order up to the first that fails, each start with its part of `RISK`: fixed sequence testing with
    several starts (Angelopoulos, Bates, Candès, Jordan and Lei 2021, "Learn then test", arXiv 2110.01052, algorithm 1).

    Args:
        counts: Numbers of the surest texts, ascending; the last is of all.
        errors: How many of these are answered wrongly.
        max_error: Between 0 and 1.
    """
    found = None
    for start in _STARTS:
        for place in range(int(np.searchsorted(counts, start * counts[-1])), len(counts)):
            if _binomial_tail(int(errors[place]), int(counts[place]), max_error) > RISK / len(_STARTS):
                break
            found = max(found or 0, int(counts[place]))
    return found


def _binomial_tail(most: int, count: int, share: float) -> float:
    """Return P(Bin(count, share) ≤ most)."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])  # of factorials
    k = np.arange(most + 1)
    terms = logs[count] - logs[k] - logs[count - k] + k * math.log(share) + (count - k) * math.log1p(-share)
    return float(np.exp(terms).sum())


def prediction_sets(probabilities: Probabilities, labels: Sequence[Any], threshold: float) -> list[list[Any]]:
    """Return of each text the labels of at least this probability, the most probable first; there may be none.

    `probabilities` are (texts, classes), `threshold` comes from `ValidationAnswers.min_set_probability`.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sizes = (probabilities.astype(np.float64) >= threshold).sum(axis=1)
    return [[labels[place] for place in row[:size]] for row, size in zip(order.tolist(), sizes.tolist(), strict=True)]
