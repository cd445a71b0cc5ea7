"""Token ids of texts, put together from those of words that were met before."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from potstill import tokens

_MOST_WORDS: Final = 1 << 14
"""Words that are remembered, some five megabytes: English has fewer that come often. When the memory is full, all are
forgotten before the next call; the common ones are back at once."""
_LONGEST: Final = 40
"""Characters of a word that is remembered; longer ones are links and noise, which come once."""


class WordEncoder:
    """Encodes texts like `potstill.tokens.encode`, with a memory for words.

    A byte-level tokenizer with a space before the text (GPT-2's pre-tokenizer, Radford et al. 2019, and what students
    have) never joins what a space parts. There the ids of a text whose words have single spaces between them are those
    of its words in turn, and looking up a dozen words takes a tenth of the time that encoding them takes. Other texts
    and other tokenizers' are encoded as a whole. May be called from several threads.

    Attributes:
        tokenizer: Cuts at `max_tokens` and pads nothing.
        max_tokens: Most ids of one text (or pair of texts).
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        tokens.limit(tokenizer, max_tokens)  # now, so that no thread has to change the tokenizer later
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        added = tokenizer.get_added_tokens_decoder().values()
        self._added = [token.content for token in added]
        self._by_words = _cuts_at_spaces(tokenizer) and not any(token.normalized for token in added)
        self._known: dict[str, list[int]] = {}

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None, empty_id: int) -> list[list[int]]:
        """Return one list of 1 to `max_tokens` ids per text; arguments as for `potstill.tokens.encode`."""
        if pairs is not None or not self._by_words:
            return tokens.encode(self.tokenizer, texts, pairs, self.max_tokens, empty_id=empty_id)
        split = [self._words(text) for text in texts]
        known = self._remember(word for words in split for word in words)
        whole = [text for text, words in zip(texts, split, strict=True) if not words]
        encoded = iter(tokens.encode(self.tokenizer, whole, None, self.max_tokens, empty_id=empty_id))
        ids = []
        for words in split:
            if words:
                joined = list(itertools.chain.from_iterable([known[word] for word in words]))
                ids.append(joined[: self.max_tokens] or [empty_id])
            else:
                ids.append(next(encoded))
        return ids

    def _words(self, text: str) -> list[str]:
        """Return the words of a text that is the words with single spaces between them; else none."""
        words = text.split(" ")
        if words != text.split() or any(token in text for token in self._added):
            return []
        return words

    def _remember(self, words: Iterable[str]) -> dict[str, list[int]]:
        """Return the ids of these words and of others."""
        if len(self._known) >= _MOST_WORDS:
            self._known = {}
        known = self._known
        new = list({word for word in words if word not in known})
        if not new:
            return known
        found = dict(zip(new, tokens.encode(self.tokenizer, new, None, self.max_tokens, empty_id=None), strict=True))
        lasting = [word for word in new if len(word) <= _LONGEST][: _MOST_WORDS - len(known)]
        if len(lasting) == len(new):
            known.update(found)
            return known
        this_call = known | found
        known.update({word: found[word] for word in lasting})
        return this_call


def _cuts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Say whether a text's ids are those of its words, each encoded alone."""
    before = tokenizer.pre_tokenizer
    return (
        isinstance(tokenizer.model, models.BPE)
        and not tokenizer.model.dropout
        and isinstance(before, pre_tokenizers.ByteLevel)
        and before.add_prefix_space
        and before.use_regex
        and isinstance(tokenizer.normalizer, normalizers.NFC | None)
        and tokenizer.post_processor is None
    )
