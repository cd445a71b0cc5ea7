import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from potstill.data import trees
from potstill.data.trees import NODES, are_worthwhile, lexicographic_batches, plant

TEXTS = [[5, 6, 7], [5, 6], [9], [5, 6, 8, 1], [5, 6, 7], [9, 300]]
few_tokens = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=20)


def arrays(texts):
    return [np.array(text, dtype=np.int32) for text in texts]


def read(forest):
    """Return the texts of a forest: what each one's last node attends to, in the order of depth."""
    found = []
    for row, end in zip(forest.rows, forest.ends, strict=True):
        nodes = np.flatnonzero(forest.attended[row, end])
        assert forest.depths[row, nodes].tolist() == list(range(len(nodes)))
        found.append(forest.ids[row, nodes].tolist())
    return found


def beginnings(texts):
    return {tuple(text[: end + 1]) for text in texts for end in range(len(text))}


def test_what_is_shared_is_there_once():
    forest = plant(arrays(TEXTS), padding_id=0)
    assert read(forest) == TEXTS
    assert forest.ids.shape == (1, len(beginnings(TEXTS)))


@given(few_tokens, st.integers(1, 12))
def test_every_text_can_be_read_from_its_last_node(texts, nodes):
    before, trees.NODES = trees.NODES, nodes
    try:
        forest = plant(arrays(texts), padding_id=7)
        assert read(forest) == texts
        assert len(forest.ids) <= math.ceil(len(beginnings(texts)) / nodes)
        assert forest.attended.any(axis=2).all()  # padding, too: a softmax over nothing is no number
    finally:
        trees.NODES = before


def test_trees_are_of_about_equal_size():
    generator = np.random.default_rng(0)
    texts = [generator.integers(0, 9, generator.integers(4, 16)) for _ in range(64)]
    forest = plant(arrays(texts), padding_id=-1)
    assert len(forest.ids) > 2
    assert (forest.ids == -1).mean() < 0.06


@given(few_tokens, st.integers(1, 30))
def test_a_pass_holds_every_text_once(texts, nodes):
    batches = list(lexicographic_batches(arrays(texts), nodes))
    assert sorted(np.concatenate(batches)) == list(range(len(texts)))
    longest = max(map(len, texts))
    assert all(len(beginnings([texts[i] for i in batch])) < nodes + 2 * longest for batch in batches)


def test_trees_are_for_short_texts_that_share_something():
    short = arrays([[1, 2, 3, n] for n in range(9)])
    assert are_worthwhile(short)
    assert not are_worthwhile([*short, np.arange(NODES + 1, dtype=np.int32)])
    assert not are_worthwhile(arrays([[n, 1, 2, 3] for n in range(9)]))
    assert not are_worthwhile([])
