"""Texts as token ids: computed once, cached on disk by content, cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from potstill.console import warn
from potstill.data.encoded import Labels, is_labelled, majority_share
from potstill.data.examples import Examples
from potstill.predict.directory import LongTexts
from potstill.predict.ngrams import Ngrams
from potstill.predict.tokens import encodings, padded_places, set_truncation
from potstill.predict.wording import numbered
from potstill.store.cache import cached_arrays
from potstill.store.checksums import digest

_FORMAT = 3
"""Part of the cache's keys; raised when the same texts give other ids."""


@dataclass(frozen=True)
class TokenisedTexts:
    """Token ids of many texts, end to end.

    Attributes:
        ids: All ids, int32, (tokens,).
        offsets: Where each text begins, and the end of the last, int64, (texts + 1,).
        type_ids: For models that read which text of a pair a token is of, that text's number, int32, (tokens,).
        lost: Tokens that were cut off each text, int64, (texts,); None: not known.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    type_ids: NDArray[np.int32] | None = None
    lost: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per text, shape (texts,)."""
        return np.diff(self.offsets)

    def first(self, count: int) -> TokenisedTexts:
        """Return at most so many tokens of each text, without `type_ids`."""
        lengths = np.minimum(self.lengths, count)
        kept = np.arange(len(self.ids)) - np.repeat(self.offsets[:-1], self.lengths) < count
        return TokenisedTexts(self.ids[kept], np.concatenate([[0], lengths.cumsum()]))

    def padded(self, indices: NDArray[np.int64], filler: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the ids of some texts, (texts, length), filled up on the right, and where these are real."""
        places, mask = padded_places(self.offsets, indices)
        return np.where(mask, self.ids[places], filler).astype(np.int64), mask

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        """Yield the ids of each text."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """Return the ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


def tokenise(
    examples: Examples,
    tokenizer: Tokenizer,
    max_length: int,
    empty_id: int,
    long_texts: LongTexts = "head",
    *,
    with_types: bool = False,
    cached: bool = True,
) -> TokenisedTexts:
    """Encode all texts, or fetch what an earlier call made of the same texts with the same tokenizer.

    Texts of more than `max_length` tokens are cut, see `predict.tokens.encode_marked`; one without any gets `empty_id`.
    `with_types` is for models that read `type_ids`. With `cached` off, for texts that are seen once, as in a stream,
    nothing is kept on disk.
    """

    def encode() -> dict[str, NDArray[Any]]:
        return _encode(examples, tokenizer, max_length, empty_id, long_texts, with_types=with_types)

    if not cached:
        return TokenisedTexts(**encode())
    set_truncation(tokenizer, max_length)  # part of the tokenizer's text below: set first, the key is stable
    settings = str(
        (
            _FORMAT,
            max_length,
            empty_id,
            len(examples),
            *["types"] * with_types,
            *([] if long_texts == "head" else [long_texts]),
        )
    )
    key = digest([settings, tokenizer.to_str(), *examples.texts, *(examples.pairs or ())])
    return TokenisedTexts(**cached_arrays("tokens", key, encode))


def _encode(
    examples: Examples,
    tokenizer: Tokenizer,
    max_length: int,
    empty_id: int,
    long_texts: LongTexts,
    *,
    with_types: bool,
) -> dict[str, NDArray[Any]]:
    ids: list[NDArray[np.int32]] = []
    types: list[NDArray[np.int32]] = []
    lost: list[int] = []
    for encoding, cut_off in encodings(tokenizer, examples.texts, examples.pairs, max_length, long_texts):
        ids.append(np.asarray(encoding.ids or [empty_id], np.int32))
        lost.append(cut_off)
        if with_types:
            types.append(np.asarray(encoding.type_ids or [0], np.int32))
    arrays = {"ids": np.concatenate(ids), "offsets": np.cumsum([0, *map(len, ids)]), "lost": np.array(lost, np.int64)}
    return arrays | ({"type_ids": np.concatenate(types)} if with_types else {})


def warn_of_cut(
    tokens: TokenisedTexts,
    labels: Labels,
    max_length: int,
    reader: str,
    remedy: str = "--max-length sets another length, --long-texts head-tail (for single texts) reads their end, too",
) -> None:
    """Warn where labelled texts are longer than `max_length`: how many, and what share of their tokens is not read."""
    labelled = is_labelled(labels)
    if tokens.lost is not None and (count := np.count_nonzero(lost := tokens.lost[labelled])):
        texts, share = numbered(len(lost), "text"), lost.sum() / (lost.sum() + tokens.lengths[labelled].sum())
        warn(
            f"{reader}: {count:,} of {texts} are cut to {max_length} tokens, {100 * share:.1f} % of all tokens are "
            f"not read; {remedy}"
        )


@dataclass(frozen=True)
class Batch:
    """What one forward pass gets.

    Attributes:
        input_ids: (batch, length), int64, padded on the right.
        attention_mask: (batch, length), int64, 1 at real tokens.
        labels: Class indices, (batch,), int64, or (batch, classes), int8, as `data.encoded` describes them.
        teacher_logits: (batch, classes), float32, for distillation.
        ngrams: For students that read n-grams, rows of their table, (batch, ngrams), int64, and the weight of each,
            float32; see `predict.ngrams`.
        token_type_ids: For teachers that read them, (batch, length), int64; 0 where there is padding.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    teacher_logits: Tensor | None = None
    ngrams: tuple[Tensor, Tensor] | None = None
    token_type_ids: Tensor | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a model is called with."""
        types = () if self.token_type_ids is None else (self.token_type_ids,)
        return self.input_ids, self.attention_mask, *(self.ngrams or ()), *types

    def to(self, device: torch.device) -> Batch:
        """Copy to a device."""
        ngrams = None if self.ngrams is None else (self.ngrams[0].to(device), self.ngrams[1].to(device))
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors, ngrams=ngrams)


@dataclass(frozen=True)
class TrainingSet:
    """Tokenised, labelled texts, ready to be cut into batches.

    Attributes:
        tokens: The texts.
        labels: Class indices, (texts,), int64, or (texts, classes), int8, as `data.encoded` describes them.
        pad_token_id: What fills short sequences up.
        teacher_logits: (texts, classes), float32, for distillation.
        ngrams: The texts' n-grams, for students that read these.
    """

    tokens: TokenisedTexts
    labels: Tensor
    pad_token_id: int
    teacher_logits: Tensor | None = None
    ngrams: Ngrams | None = None

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.tokens)

    @property
    def majority_share(self) -> float:
        """Share of the most frequent class: the accuracy of a model that answers it to everything."""
        return majority_share(self.labels.numpy())

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Collate the texts at `indices` into one batch, padded on the right to the longest of them."""
        chosen = np.asarray(indices, dtype=np.int64)
        input_ids, mask = self.tokens.padded(chosen, self.pad_token_id)
        rows, types, ngrams = torch.from_numpy(chosen), None, None
        if self.ngrams is not None:
            places, weights = self.ngrams.padded(chosen)
            ngrams = torch.from_numpy(places), torch.from_numpy(weights)
        if self.tokens.type_ids is not None:
            types = torch.from_numpy(replace(self.tokens, ids=self.tokens.type_ids).padded(chosen, 0)[0])
        return Batch(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            labels=self.labels[rows],
            teacher_logits=None if self.teacher_logits is None else self.teacher_logits[rows],
            ngrams=ngrams,
            token_type_ids=types,
        )


def shuffled_batches(
    lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Plan an epoch: every text once, texts of like length together, batches in random order.

    Sorting by length leaves next to no padding. Ties are random, so that a batch's texts change from epoch to epoch.
    One batch may be smaller than `batch_size`. Returns the indices of each batch.
    """
    ties = generator.random(len(lengths))
    order = np.lexsort((ties, lengths))  # the last key is the first to sort by
    # The incomplete batch falls on any length, so that the longest texts are not always the ones in it.
    whole, rest = divmod(len(lengths), batch_size)
    cuts = np.cumsum(generator.permutation([batch_size] * whole + [rest] * (rest > 0)))[:-1]
    batches = np.split(order, cuts)
    return [batches[i] for i in generator.permutation(len(batches))]


def sequential_batches(lengths: NDArray[np.int64], tokens_per_batch: int) -> Iterator[NDArray[np.int64]]:
    """Plan a pass without gradients: longest texts first, as many per batch as fit `tokens_per_batch` when padded.

    Longest first, so that a machine with too little memory says so at once. Yields the indices of each batch.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        size = max(1, tokens_per_batch // max(1, longest))
        yield order[start : start + size]
        start += size
