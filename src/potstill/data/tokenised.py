"""Texts as token ids: computed once, cached on disk by content, cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from potstill.artifacts import cache_directory, digest, read_arrays, write_arrays
from potstill.data.examples import Examples
from potstill.tokens import encode, limit


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids of many texts, end to end.

    Attributes:
        ids: All ids, int32, shape (tokens,).
        offsets: Where each text begins, and the end of the last, int64, shape (texts + 1,).
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per text, shape (texts,)."""
        return np.diff(self.offsets)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """Return the ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


def tokenise(examples: Examples, tokenizer: Tokenizer, max_tokens: int, empty_id: int) -> TokenisedTexts:
    """Encode all texts, or fetch what an earlier call made of the same texts with the same tokenizer.

    Args:
        examples: The texts.
        tokenizer: Any tokenizer of the `tokenizers` library.
        max_tokens: Longer texts are cut.
        empty_id: The id that stands for a text without any token.
    """
    limit(tokenizer, max_tokens)  # part of the tokenizer's state, hence of its text below: set first, the key is stable
    settings = str((max_tokens, empty_id, len(examples)))
    key = digest([settings, tokenizer.to_str(), *examples.texts, *(examples.pairs or ())])
    path = cache_directory() / "tokens" / key
    if (cached := read_arrays(path)) is not None:
        return TokenisedTexts(cached["ids"], cached["offsets"])
    sequences = encode(tokenizer, examples.texts, examples.pairs, max_tokens=max_tokens, empty_id=empty_id)
    ids = np.concatenate([np.asarray(sequence, np.int32) for sequence in sequences])
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    write_arrays(path, {"ids": ids, "offsets": offsets})
    return TokenisedTexts(ids, offsets)


@dataclass(frozen=True)
class Batch:
    """What one forward pass gets.

    Attributes:
        input_ids: (batch, length), int64, padded on the right.
        attention_mask: (batch, length), int64, 1 at real tokens.
        labels: Class indices, (batch,), int64.
        teacher_logits: (batch, classes), float32, where a teacher has judged these texts.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    teacher_logits: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Copy to a device."""
        logits = None if self.teacher_logits is None else self.teacher_logits.to(device)
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device), logits)


@dataclass(frozen=True)
class TrainingSet:
    """Tokenised, labelled texts, ready to be cut into batches.

    Attributes:
        tokens: The texts.
        labels: Class indices, (texts,), int64.
        padding_id: What fills short sequences up.
        teacher_logits: (texts, classes), float32, for distillation.
    """

    tokens: TokenisedTexts
    labels: Tensor
    padding_id: int
    teacher_logits: Tensor | None = None

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.tokens)

    @property
    def majority_share(self) -> float:
        """Share of the most frequent class: the accuracy of a model that answers it to everything."""
        return int(self.labels.bincount().max()) / len(self)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Collate the texts at `indices` into one batch, padded on the right to the longest of them."""
        rows = [self.tokens[int(i)] for i in indices]
        length = max(map(len, rows))
        input_ids = np.full((len(rows), length), self.padding_id, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for number, row in enumerate(rows):
            input_ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        chosen = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        logits = None if self.teacher_logits is None else self.teacher_logits[chosen]
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(mask), self.labels[chosen], logits)


def shuffled_batches(
    lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Plan an epoch: every text once, texts of like length together, batches in random order.

    Sorting by length with random ties and cutting into batches leaves next to no padding, where batches drawn at
    random are padded to their longest text; which texts meet still changes from epoch to epoch, and so does the order
    of the batches.

    Args:
        lengths: Tokens per text, (texts,).
        batch_size: Texts per batch; one batch may be smaller.
        generator: Decides ties and order.

    Returns:
        Indices per batch.
    """
    ties = generator.random(len(lengths))
    order = np.lexsort((ties, lengths))  # the last key is the first to sort by
    whole, rest = divmod(len(lengths), batch_size)
    # The incomplete batch falls on any length, so that the longest texts are not always the ones in it.
    sizes = generator.permutation([batch_size] * whole + [rest] * (rest > 0))
    batches = np.split(order, np.cumsum(sizes)[:-1])
    return [batches[i] for i in generator.permutation(len(batches))]


def sequential_batches(lengths: NDArray[np.int64], tokens_per_batch: int) -> Iterator[NDArray[np.int64]]:
    """Plan a pass without gradients: longest texts first, as many per batch as fit `tokens_per_batch` when padded.

    Longest first, so that a machine with too little memory says so at once.

    Yields:
        Indices of one batch; all batches together hold every text once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        size = max(1, tokens_per_batch // max(1, longest))
        yield order[start : start + size]
        start += size
