"""Reading a text twice, so that every token of the second reading has seen all of it.

A decoder's state of a token knows only the tokens before it. In a second reading it knows the whole text (Springer et
al. 2024, "Repetition Improves Language Model Embeddings", arXiv 2402.15449, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from potstill.data.tokenised import TokenisedTexts


@dataclass(frozen=True)
class Echo:
    """How the ids of a text are repeated: special tokens around a text come once, at the start and at the end.

    Attributes:
        separator: Ids between the two readings.
        opening: How many ids open every text, such as a beginning-of-text token.
        closing: How many ids close every text, such as an end-of-text token.
    """

    separator: tuple[int, ...]
    opening: int = 0
    closing: int = 0

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Echo:
        """Separate the readings by a line break; special tokens around a text open and close it."""
        special = tokenizer.encode("a").special_tokens_mask
        opening = len(list(takewhile(bool, special)))
        closing = len(list(takewhile(bool, reversed(special[opening:]))))
        return cls(tuple(tokenizer.encode("\n", add_special_tokens=False).ids), opening, closing)

    def repeat(self, tokens: TokenisedTexts) -> TokenisedTexts:
        """Return texts with each one's ids twice."""
        separator = np.array(self.separator, dtype=tokens.ids.dtype)
        texts = [np.concatenate([ids[: len(ids) - self.closing], separator, ids[self.opening :]]) for ids in tokens]
        return TokenisedTexts(np.concatenate(texts), np.cumsum([0, *map(len, texts)], dtype=np.int64), lost=tokens.lost)

    def longest(self, positions: int) -> int:
        """Return how many tokens a text may have to fit twice into so many `positions`."""
        return (positions - len(self.separator) + self.opening + self.closing) // 2

    def pool(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Average the states of each text's second reading, which includes what closes the text.

        Returns:
            (batch, hidden), for states (batch, length, hidden), padded on the right, and the real tokens of each text,
            (batch,). Of a text that is nothing but its opening, the last one counts.
        """
        first = (lengths + len(self.separator) + self.opening - self.closing) // 2  # (batch,)
        places = torch.arange(states.shape[1], device=lengths.device)
        chosen = (places >= first.clamp(max=lengths - 1).unsqueeze(1)) & (places < lengths.unsqueeze(1))
        weights = chosen.to(states.dtype)  # (batch, length)
        return torch.einsum("bth,bt->bh", states, weights / weights.sum(dim=1, keepdim=True))
