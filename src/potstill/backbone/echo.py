"""Reading a text twice, so that every token of the second reading has seen all of it.

A decoder's state of a token knows what came before it, and nothing of what comes. In a second reading it knows the
whole text (Springer et al. 2024, "Repetition Improves Language Model Embeddings", arXiv 2402.15449, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from potstill.data.tokenised import TokenisedTexts

Length = TypeVar("Length", int, Tensor)


@dataclass(frozen=True)
class Echo:
    """How the ids of a text are given twice: what opens a text comes once, in front, what closes it once, at the end.

    Attributes:
        separator: Ids between the two readings.
        opening: How many ids open every text, such as a beginning-of-text token: in the middle it would be read as the
            beginning of another text.
        closing: How many ids close every text, such as an end-of-text token.
    """

    separator: tuple[int, ...]
    opening: int = 0
    closing: int = 0

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Echo:
        """Part the readings by a line break; special tokens around a text open and close it."""
        special = tokenizer.encode("a").special_tokens_mask
        opening = len(list(takewhile(bool, special)))
        closing = len(list(takewhile(bool, reversed(special[opening:]))))
        return cls(tuple(tokenizer.encode("\n", add_special_tokens=False).ids), opening, closing)

    def repeat(self, tokens: TokenisedTexts) -> TokenisedTexts:
        """Return texts with each one's ids twice."""
        separator = np.array(self.separator, dtype=tokens.ids.dtype)
        texts = [np.concatenate([ids[: len(ids) - self.closing], separator, ids[self.opening :]]) for ids in tokens]
        return TokenisedTexts(np.concatenate(texts), np.cumsum([0, *map(len, texts)], dtype=np.int64))

    def longest(self, positions: int) -> int:
        """Return the tokens that a text may have where there is room for so many `positions`."""
        return (positions - len(self.separator) + self.opening + self.closing) // 2

    def shift(self, length: Length) -> Length:
        """Return how far behind its first reading the second reads a token, in a text of `length` ids in all."""
        return (length + len(self.separator) - self.opening - self.closing) // 2

    def second_reading(self, lengths: Tensor, width: int) -> Tensor:
        """Return which tokens are read for the second time, what closes a text included, (batch, width), bool.

        Args:
            lengths: Real tokens of each text, (batch,); padding is on the right.
            width: Tokens of a row. Of a text that is nothing but its opening, the last one counts.
        """
        first = self.shift(lengths) + self.opening
        places = torch.arange(width, device=lengths.device)
        return (places >= first.clamp(max=lengths - 1).unsqueeze(1)) & (places < lengths.unsqueeze(1))

    @staticmethod
    def mean(states: Tensor, chosen: Tensor) -> Tensor:
        """Average the states of the `chosen` tokens, (batch, length), bool; states are (batch, length, hidden).

        Returns:
            (batch, hidden).
        """
        weights = chosen.to(states.dtype)
        return torch.einsum("bth,bt->bh", states, weights / weights.sum(dim=1, keepdim=True))
