"""Texts that begin alike, as trees of tokens: what they share is there once.

A decoder's state of a token depends on the tokens before it and on nothing else. Texts with the same beginning have the
same states there, and a forward pass over the tree of their tokens, in which each attends to its ancestors, computes
all of them with a state per node (tree attention: Miao et al. 2024, "SpecInfer", arXiv 2305.09781, section 4.2).

It is for passes without gradients, which may put texts together that begin alike. The texts of a training's batch are
drawn; they share a tenth of their tokens, and what that saves the wider attention costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

NODES: Final = 128
"""Nodes of a tree, about: larger ones share a little more, but each node is compared with all of its tree."""
_WORTHWHILE: Final = 0.1
"""Share of the tokens that need not be computed from which trees pay: attention is wider in them."""


@dataclass(frozen=True)
class Forest:
    """Trees side by side, padded on the right.

    Attributes:
        ids: Token id of each node, (trees, nodes); parents come before their children.
        depths: Tokens before it in its texts, (trees, nodes).
        attended: Whether the node of a column is that of the row or one before it in its texts, (trees, nodes, nodes);
            padding attends to itself.
        rows: The tree of each text, (texts,).
        ends: The node of each text's last token, (texts,).
    """

    ids: Indices
    depths: Indices
    attended: NDArray[np.bool_]
    rows: Indices
    ends: Indices


def in_order(texts: Sequence[NDArray[np.int32]]) -> Indices:
    """Return the lexicographic order of token ids, in which each text shares most with the one before it."""
    keys = [text.astype(">u4").tobytes() for text in texts]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def shared_tokens(texts: Sequence[NDArray[np.int32]]) -> Indices:
    """Count the first tokens that each text has in common with the one before it, (texts,)."""
    shared = np.zeros(len(texts), dtype=np.int64)
    for number in range(1, len(texts)):
        one, other = texts[number - 1], texts[number]
        length = min(len(one), len(other))
        differing = np.flatnonzero(one[:length] != other[:length])
        shared[number] = differing[0] if len(differing) else length
    return shared


def are_worthwhile(texts: Sequence[NDArray[np.int32]]) -> bool:
    """Say whether texts are short enough for trees and share enough to be computed faster as such."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    shared = shared_tokens([texts[text] for text in in_order(texts)]).sum()
    return bool(lengths.max(initial=0) <= NODES and shared > _WORTHWHILE * lengths.sum())


def plant(texts: Sequence[NDArray[np.int32]], padding_id: int) -> Forest:
    """Put texts into trees of about equal size.

    Args:
        texts: Token ids, none of them empty.
        padding_id: What fills smaller trees up.
    """
    order = in_order(texts)
    ordered = [texts[text] for text in order]
    cuts = _cuts(np.array([len(text) for text in ordered]), shared_tokens(ordered))
    trees = [_grow(part) for part in _split(ordered, cuts)]
    size = max(len(ids) for ids, _, _, _ in trees)
    ids = np.full((len(trees), size), padding_id, dtype=np.int64)
    depths = np.zeros_like(ids)
    attended = np.zeros((len(trees), size, size), dtype=np.bool_)
    attended[:] = np.eye(size, dtype=np.bool_)
    for row, (tree_ids, tree_depths, parents, _) in enumerate(trees):
        nodes = len(tree_ids)
        ids[row, :nodes], depths[row, :nodes] = tree_ids, tree_depths
        for node, parent in enumerate(parents):
            if parent >= 0:
                attended[row, node, :node] = attended[row, parent, :node]
    rows, ends = np.empty_like(order), np.empty_like(order)
    rows[order] = np.repeat(np.arange(len(trees)), [len(tree[3]) for tree in trees])
    ends[order] = np.concatenate([tree[3] for tree in trees])
    return Forest(ids, depths, attended, rows, ends)


def lexicographic_batches(texts: Sequence[NDArray[np.int32]], nodes_per_batch: int) -> Iterator[Indices]:
    """Plan a pass without gradients: texts that begin alike together, about `nodes_per_batch` nodes in each batch.

    Yields:
        Indices of one batch; all batches together hold every text once.
    """
    order = in_order(texts)
    ordered = [texts[text] for text in order]
    new = np.array([len(text) for text in ordered]) - shared_tokens(ordered)
    filled = (np.cumsum(new) - new) // nodes_per_batch
    yield from np.split(order, np.flatnonzero(np.diff(filled)) + 1)


def _cuts(lengths: Indices, shared: Indices) -> list[int]:
    """Say before which texts a new tree begins, so that the largest of as few trees as may be is as small as may be."""
    new = lengths - shared
    trees = math.ceil(new.sum() / NODES)
    most = math.ceil(new.sum() / trees)
    while len(cuts := _fill(lengths.tolist(), new.tolist(), most)) >= trees:
        most += 1
    return cuts


def _fill(lengths: Sequence[int], new: Sequence[int], most: int) -> list[int]:
    """Say before which texts a new tree begins where none has more than `most` nodes, but of a single text."""
    cuts: list[int] = []
    nodes = lengths[0]
    for text in range(1, len(lengths)):
        nodes += new[text]
        if nodes > most:
            cuts.append(text)
            nodes = lengths[text]  # what it shares is there anew
    return cuts


def _split(texts: Sequence[NDArray[np.int32]], cuts: Sequence[int]) -> Iterator[Sequence[NDArray[np.int32]]]:
    for start, end in zip([0, *cuts], [*cuts, len(texts)], strict=True):
        yield texts[start:end]


def _grow(texts: Sequence[NDArray[np.int32]]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Make a tree of texts in order: each node's id, depth and parent (-1: none), and each text's last node."""
    ids: list[int] = []
    depths: list[int] = []
    parents: list[int] = []
    ends: list[int] = []
    path: list[int] = []  # the latest text's nodes
    for text, shared in zip(texts, shared_tokens(texts), strict=True):
        del path[shared:]
        for token in text[shared:].tolist():
            parents.append(path[-1] if path else -1)
            depths.append(len(path))
            path.append(len(ids))
            ids.append(token)
        ends.append(path[-1])
    return ids, depths, parents, ends
