"""Words and spans: unlabelled text that costs nothing but the teacher's time.

A tuned teacher knows words and phrases that no training text holds; asked for single words, a teacher of emotions puts
"heartbroken" and "grieving" first for sadness. Labelled phrases did the same for other people's students (Socher et al.
2013, "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank"; Tang et al. 2019, arXiv
1903.12136, section 3.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

import numpy as np

SPAN_WORDS: Final = (2, 8)
"""Fewest and most words of a span: shorter ones are words, longer ones are nearly the texts themselves."""
_ATTEMPTS: Final = 4
"""Spans drawn for each that is wanted, at most: few or short texts hold fewer different ones."""


def words(texts: Sequence[str], count: int) -> Iterator[str]:
    """Yield different words: those of the texts, the most frequent first, then frequent English ones.

    Args:
        texts: The training texts.
        count: Words at most.
    """
    from wordfreq import top_n_list

    own = Counter(chain.from_iterable(text.split() for text in texts))
    found = dict.fromkeys(word for word, _ in own.most_common())
    if len(found) < count:
        found |= dict.fromkeys(top_n_list("en", count))
    yield from list(found)[:count]


def spans(texts: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Yield different spans of the texts, 2 to 8 words each, drawn evenly from the texts.

    Args:
        texts: The training texts.
        count: Spans at most.
        seed: Decides what is drawn.
    """
    generator = np.random.default_rng(seed)
    split = [parts for text in texts if len(parts := text.split()) > SPAN_WORDS[0]]
    found: dict[str, None] = {}
    for _ in range(_ATTEMPTS * count if split else 0):
        parts = split[generator.integers(len(split))]
        length = int(generator.integers(SPAN_WORDS[0], min(SPAN_WORDS[1], len(parts) - 1) + 1))
        start = int(generator.integers(len(parts) - length + 1))
        found[" ".join(parts[start : start + length])] = None
        if len(found) == count:
            break
    yield from found
