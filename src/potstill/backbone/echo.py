"""Reading a text twice, so that every token of the second reading has seen all of it.

A decoder's state of a token knows what came before it, and nothing of what comes. In a second reading it knows the
whole text (Springer et al. 2024, "Repetition Improves Language Model Embeddings", arXiv 2402.15449, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from potstill.data.tokenised import TokenisedTexts


@dataclass(frozen=True)
class Echo:
    """How the ids of a text are given twice: first all, then a separator, then all but those that open a text.

    Attributes:
        separator: Ids between the two readings.
        opening: How many ids open every text: 1 where it begins with a beginning-of-text token, which would be read as
            the beginning of another text in the middle; else 0.
    """

    separator: tuple[int, ...]
    opening: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, bos_id: int | None) -> Echo:
        """Part the readings by a line break; `bos_id` is the id of the beginning-of-text token, where there is one."""
        separator = tuple(tokenizer.encode("\n", add_special_tokens=False).ids)
        return cls(separator, int(tokenizer.encode("a").ids[:1] == [bos_id]))

    def repeat(self, tokens: TokenisedTexts) -> TokenisedTexts:
        """Return texts with each one's ids twice."""
        separator = np.array(self.separator, dtype=tokens.ids.dtype)
        texts = [np.concatenate([ids, separator, ids[self.opening :]]) for ids in tokens]
        return TokenisedTexts(np.concatenate(texts), np.cumsum([0, *map(len, texts)], dtype=np.int64))

    def longest(self, positions: int) -> int:
        """Return the tokens that a text may have where there is room for so many `positions`."""
        return (positions - len(self.separator) + self.opening) // 2

    def shift(self, length: int) -> int:
        """Return how far behind its first reading the second reads a token, in a text of `length` ids in all."""
        return (length + len(self.separator) - self.opening) // 2

    def mean(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Average the states of the second reading.

        Args:
            states: (batch, length, hidden), padded on the right.
            lengths: Real tokens of each text, (batch,).

        Returns:
            (batch, hidden); of a text that is nothing but its opening, the last state.
        """
        first = (lengths + len(self.separator) - self.opening) // 2 + self.opening
        places = torch.arange(states.shape[1], device=states.device)
        is_second = (places >= first.clamp(max=lengths - 1).unsqueeze(1)) & (places < lengths.unsqueeze(1))
        weights = is_second.to(states.dtype)
        return torch.einsum("bth,bt->bh", states, weights / weights.sum(dim=1, keepdim=True))
