import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potstill.data import UNLABELLED
from potstill.errors import ArtifactError
from potstill.runtime.directory import TRANSFER_FILE
from potstill.transfer.sets import TransferSet

SOURCES = ("file:a.txt", "sampled:yes", "sampled:no", "perturbed:swap")


def make_set(**changes):
    values = {"texts": ("a", "b", "c", "d"), "pairs": None, "sources": SOURCES, "dropped": {"held-out": 1}}
    return TransferSet(**(values | changes))


@pytest.mark.parametrize("pairs", [None, ("1", "2", "3", "4")])
@pytest.mark.parametrize("judged", [True, False])
def test_round_trip(tmp_path, pairs, judged):
    made = make_set(pairs=pairs)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    if judged:
        made = made.judged(logits, "who")
    made.save(tmp_path / TRANSFER_FILE)
    for place in (tmp_path, tmp_path / TRANSFER_FILE):
        found = TransferSet.load(place)
        assert (found.texts, found.pairs, found.sources, found.dropped) == (
            made.texts,
            made.pairs,
            made.sources,
            made.dropped,
        )
        assert found.teacher == ("who" if judged else None)
        assert (found.logits is None) != judged
        if found.logits is not None:
            np.testing.assert_array_equal(found.logits, logits.numpy())


@given(texts=st.lists(st.text(), max_size=8))
def test_any_text_comes_back(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / TRANSFER_FILE
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    make_set(texts=tuple(texts), sources=("file:a",) * len(texts)).save(path)
    assert TransferSet.load(path).texts == tuple(texts)


def test_counts_weights_and_examples():
    made = make_set()
    assert made.counts == {"file": 1, "sampled": 2, "perturbed": 1}
    assert made.weights({"sampled:y*": 2.0, "sampled:*": 0.5, "perturbed:*": 0.0}).tolist() == [1.0, 2.0, 0.5, 0.0]
    assert made.examples.labels.tolist() == [UNLABELLED] * 4


@pytest.mark.parametrize("content", [b"", b"PAR1", b"text"])
def test_what_is_no_transfer_set_is_refused(tmp_path, content):
    (tmp_path / TRANSFER_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match="expected a transfer set"):
        TransferSet.load(tmp_path)


@pytest.mark.parametrize("pairs", [None, ("1", "2", "3", "4")])
def test_texts_are_taken_with_all_that_belongs_to_them(pairs):
    made = make_set(pairs=pairs).judged(torch.arange(8.0).view(4, 2), "who")
    taken = made.take(range(0, 4, 2))
    assert (taken.texts, taken.sources) == (("a", "c"), ("file:a.txt", "sampled:no"))
    assert taken.pairs == (pairs and ("1", "3"))
    assert taken.logits.tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert made.only(["sampled:*"]).texts == ("b", "c")


def test_a_missing_one_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="nowhere"):
        TransferSet.load(tmp_path / "nowhere")


@pytest.mark.parametrize("judged", [True, False])
def test_every_flipped_byte_is_noticed_or_harmless(tmp_path, judged):
    made = make_set(pairs=("1", "2", "3", "4"))
    if judged:
        made = made.judged(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), "who")
    path = tmp_path / TRANSFER_FILE
    made.save(path)
    content = path.read_bytes()
    refused, named = 0, True
    for place in range(0, len(content), 3):
        for mask in (1, 0xFF):
            path.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
            try:
                found = TransferSet.load(path)
            except ArtifactError as error:
                named = str(path) in str(error)
                refused += named
            else:  # statistics, say, which nobody reads
                assert same(found, made)
            assert named
    assert refused > len(content) // 3


def same(first, second):
    names = ("texts", "pairs", "sources", "dropped", "teacher", "held_out")
    alike = all(getattr(first, name) == getattr(second, name) for name in names)
    return alike and np.array_equal(first.logits, second.logits)


def test_a_set_that_was_written_again_by_other_means_is_refused(tmp_path):
    path = tmp_path / TRANSFER_FILE
    make_set(held_out="some texts").save(path)
    table = pq.read_table(path)
    other_text = table.set_column(table.column_names.index("text"), "text", pa.array(["a", "b", "c", "x"]))
    notes = json.loads(table.schema.metadata[b"potstill"]) | {"held_out": "other texts"}
    other_notes = table.replace_schema_metadata({b"potstill": json.dumps(notes)})
    for changed in (other_text.replace_schema_metadata(table.schema.metadata), other_notes):
        pq.write_table(changed, path)
        with pytest.raises(ArtifactError, match="it was altered"):
            TransferSet.load(path)
