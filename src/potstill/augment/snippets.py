"""Words and spans: unlabelled text that costs nothing but the teacher's time.

A tuned teacher knows words and phrases that no training text holds; asked for single words, a teacher of emotions puts
"heartbroken" and "grieving" first for sadness. Labelled phrases did the same for other people's students (Socher et al.
2013, "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank"; Tang et al. 2019, arXiv
1903.12136, section 3.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

import numpy as np
from tokenizers import Tokenizer

SPAN_WORDS: Final = (2, 8)
"""Fewest and most words of a span: shorter ones are words, longer ones are nearly the texts themselves."""
_ATTEMPTS: Final = 4
"""Spans drawn for each that is wanted, at most: few or short texts hold fewer different ones."""


def words(texts: Sequence[str], count: int, vocabulary: Iterable[str]) -> Iterator[str]:
    """Yield at most `count` words: those of the texts, the most frequent first, then those of `vocabulary`."""
    own = Counter(chain.from_iterable(text.split() for text in texts))
    yield from islice(dict.fromkeys([*(word for word, _ in own.most_common()), *vocabulary]), count)


def vocabulary_words(tokenizer: Tokenizer) -> list[str]:
    """Return the whole words of a subword vocabulary in lower case, in the order of its ids.

    A byte-pair encoding learns frequent words first, so that the order is nearly that of their frequency.
    """
    ids = sorted(tokenizer.get_vocab().values())
    texts = tokenizer.decode_batch([[number] for number in ids])
    return list(dict.fromkeys(text[1:].lower() for text in texts if text[:1] == " " and text[1:].isalpha()))


def spans(texts: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Yield at most `count` different spans of the texts, 2 to 8 words each, drawn evenly from the texts."""
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
