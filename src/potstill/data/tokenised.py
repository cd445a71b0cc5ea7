"""Texts as token ids: computed once, cached on disk by content, cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from potstill.artifacts import digest, read_arrays, write_arrays
from potstill.data.examples import UNLABELLED, Examples
from potstill.data.trees import lexicographic_batches, plant
from potstill.files import cache_directory
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

    def first(self, count: int) -> TokenisedTexts:
        """Return at most so many tokens of each text."""
        lengths = np.minimum(self.lengths, count)
        kept = np.arange(len(self.ids)) - np.repeat(self.offsets[:-1], self.lengths) < count
        return TokenisedTexts(self.ids[kept], np.concatenate([[0], lengths.cumsum()]))

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        """Yield the ids of each text."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """Return the ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


def tokenise(
    examples: Examples, tokenizer: Tokenizer, max_tokens: int, empty_id: int, *, cached: bool = True
) -> TokenisedTexts:
    """Encode all texts, or fetch what an earlier call made of the same texts with the same tokenizer.

    Args:
        examples: The texts.
        tokenizer: Any tokenizer of the `tokenizers` library.
        max_tokens: Longer texts are cut.
        empty_id: The id that stands for a text without any token.
        cached: Whether the cache is asked and added to; not where texts are seen once, as in a stream.
    """
    if not cached:
        return _encode(examples, tokenizer, max_tokens, empty_id)
    limit(tokenizer, max_tokens)  # part of the tokenizer's state, hence of its text below: set first, the key is stable
    settings = str((max_tokens, empty_id, len(examples)))
    key = digest([settings, tokenizer.to_str(), *examples.texts, *(examples.pairs or ())])
    path = cache_directory() / "tokens" / key
    if (known := read_arrays(path)) is not None:
        return TokenisedTexts(known["ids"], known["offsets"])
    tokens = _encode(examples, tokenizer, max_tokens, empty_id)
    write_arrays(path, {"ids": tokens.ids, "offsets": tokens.offsets})
    return tokens


def _encode(examples: Examples, tokenizer: Tokenizer, max_tokens: int, empty_id: int) -> TokenisedTexts:
    sequences = encode(tokenizer, examples.texts, examples.pairs, max_tokens=max_tokens, empty_id=empty_id)
    ids = np.concatenate([np.asarray(sequence, np.int32) for sequence in sequences])
    return TokenisedTexts(ids, offsets=np.cumsum([0, *map(len, sequences)], dtype=np.int64))


@dataclass(frozen=True)
class Batch:
    """What one forward pass gets.

    Attributes:
        input_ids: (batch, length), int64, padded on the right; of texts as trees, (trees, nodes).
        attention_mask: (batch, length), int64, 1 at real tokens; of trees, which nodes each attends to, (trees, 1,
            nodes, nodes), bool.
        labels: Class indices, (batch,), int64; `UNLABELLED` where nobody has given one.
        teacher_logits: (batch, classes), float32, where a teacher has judged these texts.
        weights: How much each text counts, (batch,), float32; None: all the same.
        hidden: A teacher's hidden states at the ends of words, (words, its hidden size), float32.
        hidden_places: Which tokens these words end with, as indices into (batch · length), int64, (words,).
        states: (batch, length, hidden), float32, where the frozen blocks have been computed before.
        positions: Place of each node in its texts, (trees, nodes), int64.
        ends: Tree and node of each text's last token, (2, batch), int64.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    teacher_logits: Tensor | None = None
    weights: Tensor | None = None
    hidden: Tensor | None = None
    hidden_places: Tensor | None = None
    states: Tensor | None = None
    positions: Tensor | None = None
    ends: Tensor | None = None

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """What a model is called with."""
        inputs = (self.input_ids, self.attention_mask)
        if self.positions is not None:
            return (*inputs, None, self.positions, self.ends)
        return inputs if self.states is None else (*inputs, self.states)

    def to(self, device: torch.device) -> Batch:
        """Copy to a device."""
        present = {name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None}
        return Batch(**present)


@dataclass(frozen=True)
class HiddenStates:
    """A teacher's hidden states at the ends of words; see `distillation.hidden`.

    Attributes:
        values: The states of all words that the teacher has read, (words, hidden), float16. May lie on disk,
            memory-mapped.
        firsts: Where each text's words begin there, (texts,).
        places: Which of its text's tokens each word ends with, (words that both have read,).
        offsets: Where each text's words begin there, and the end of the last, (texts + 1,).
        key: Digest of what decides `values`, which may be gigabytes.
    """

    values: NDArray[np.float16]
    firsts: NDArray[np.int64]
    places: NDArray[np.int32]
    offsets: NDArray[np.int64]
    key: str

    def of(self, texts: NDArray[np.int64], length: int) -> dict[str, Tensor]:
        """Return `hidden` and `hidden_places` of a batch of texts that is `length` tokens long."""
        counts = self.offsets[texts + 1] - self.offsets[texts]
        rows = np.repeat(np.arange(len(texts)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        values = self.values[self.firsts[texts][rows] + within]
        return {
            "hidden": torch.from_numpy(values.astype(np.float32)),
            "hidden_places": torch.from_numpy(rows * length + self.places[self.offsets[texts][rows] + within]),
        }


@dataclass(frozen=True)
class TrainingSet:
    """Tokenised, labelled texts, ready to be cut into batches.

    Attributes:
        tokens: The texts.
        labels: Class indices, (texts,), int64; `UNLABELLED` where nobody has given one.
        padding_id: What fills short sequences up.
        teacher_logits: (texts, classes), float32, for distillation.
        weights: How much each text counts, (texts,), float32, 1 on average; None: all the same.
        hidden: A teacher's hidden states, for distillation.
        states: What the frozen blocks make of each token, (tokens, hidden), float32; see `backbone.prefix`. May lie on
            disk, memory-mapped.
        as_trees: Whether a batch's texts are read as trees, which share their beginnings; see `data.trees`.
    """

    tokens: TokenisedTexts
    labels: Tensor
    padding_id: int
    teacher_logits: Tensor | None = None
    weights: Tensor | None = None
    hidden: HiddenStates | None = None
    states: NDArray[np.float32] | None = None
    as_trees: bool = False

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.tokens)

    @property
    def majority_share(self) -> float:
        """Share of the most frequent class: the accuracy of a model that answers it to everything."""
        return int(self.labels[self.labels != UNLABELLED].bincount(minlength=1).max()) / len(self)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Collate the texts at `indices` into one batch, padded on the right to the longest of them."""
        chosen = np.asarray(indices, dtype=np.int64)
        if self.as_trees:
            return self._trees(chosen)
        starts = self.tokens.offsets[chosen]
        lengths = self.tokens.offsets[chosen + 1] - starts  # not `lengths`, which goes through all texts
        column = np.arange(lengths.max())
        mask = column < lengths[:, None]  # (batch, length)
        # Padded places point at the text's first token: any place that exists will do.
        places = starts[:, None] + np.where(mask, column, 0)
        rows = torch.from_numpy(chosen)
        return Batch(
            input_ids=torch.from_numpy(np.where(mask, self.tokens.ids[places], self.padding_id).astype(np.int64)),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            labels=self.labels[rows],
            teacher_logits=None if self.teacher_logits is None else self.teacher_logits[rows],
            weights=None if self.weights is None else self.weights[rows],
            **({} if self.hidden is None else self.hidden.of(chosen, mask.shape[1])),
            states=None if self.states is None else torch.from_numpy(self.states[places]),
        )

    def sequential_batches(self, tokens_per_batch: int) -> Iterator[NDArray[np.int64]]:
        """Plan a pass without gradients; see the function of this name, and `lexicographic_batches` for trees."""
        if self.as_trees:
            return lexicographic_batches([*self.tokens], tokens_per_batch)
        return sequential_batches(self.tokens.lengths, tokens_per_batch)

    def _trees(self, chosen: NDArray[np.int64]) -> Batch:
        if self.states is not None or self.hidden is not None:
            raise ValueError("states belong to the tokens of texts; expected none beside trees")
        forest = plant([self.tokens[text] for text in chosen], self.padding_id)
        rows = torch.from_numpy(chosen)
        return Batch(
            input_ids=torch.from_numpy(forest.ids),
            attention_mask=torch.from_numpy(forest.attended).unsqueeze(1),
            labels=self.labels[rows],
            teacher_logits=None if self.teacher_logits is None else self.teacher_logits[rows],
            weights=None if self.weights is None else self.weights[rows],
            positions=torch.from_numpy(forest.depths),
            ends=torch.from_numpy(np.stack([forest.rows, forest.ends])),
        )


def shuffled_batches(
    lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator, *, by_tokens: bool = False
) -> list[NDArray[np.int64]]:
    """Plan an epoch: every text once, texts of like length together, batches in random order.

    Sorting by length with random ties and cutting into batches leaves next to no padding, where batches drawn at
    random are padded to their longest text; which texts meet still changes from epoch to epoch, and so does the order
    of the batches.

    Args:
        lengths: Tokens per text, (texts,).
        batch_size: Texts per batch; one batch may be smaller.
        generator: Decides ties and order.
        by_tokens: Give all batches about the same number of tokens instead, as many as `batch_size` texts have on
            average: short texts then fill a machine as well as long ones do.

    Returns:
        Indices per batch.
    """
    ties = generator.random(len(lengths))
    order = np.lexsort((ties, lengths))  # the last key is the first to sort by
    # The incomplete batch falls on any length, so that the longest texts are not always the ones in it.
    if by_tokens:
        budget = max(1.0, batch_size * float(lengths.mean()))
        filled = (np.cumsum(lengths[order]) - lengths[order] + generator.uniform(0.0, budget)) // budget
        cuts = np.flatnonzero(np.diff(filled)) + 1
    else:
        whole, rest = divmod(len(lengths), batch_size)
        cuts = np.cumsum(generator.permutation([batch_size] * whole + [rest] * (rest > 0)))[:-1]
    batches = np.split(order, cuts)
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
