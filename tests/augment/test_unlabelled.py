import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.augment.unlabelled import UnlabelledSet
from potstill.data import UNLABELLED
from potstill.errors import ArtifactError
from potstill.predict.directory import UNLABELLED_FILE

SOURCES = ("file:a.txt", "sampled:yes", "sampled:no", "perturbed:swap")


def make_set(**changes):
    values = {"texts": ("a", "b", "c", "d"), "pairs": None, "sources": SOURCES, "dropped": {"held-out": 1}}
    return UnlabelledSet(**(values | changes))


def labelled(**changes):
    return make_set(**changes).labelled(np.arange(8, dtype=np.float32).reshape(4, 2) / 3, "teacher")


def same(first, second):
    names = ("texts", "pairs", "sources", "dropped", "teacher", "held_out")
    alike = all(getattr(first, name) == getattr(second, name) for name in names)
    return alike and np.array_equal(first.logits, second.logits)


@pytest.mark.parametrize("made", [make_set(), make_set(pairs=("1", "2", "3", "4")), labelled(), labelled(held_out="x")])
def test_saved_set_is_loaded_equal(tmp_path, made):
    made.save(tmp_path / UNLABELLED_FILE)
    for place in (tmp_path, tmp_path / UNLABELLED_FILE):
        found = UnlabelledSet.load(place)
        assert same(found, made)
        assert found.texts_key == made.texts_key


@given(texts=st.lists(st.text(), max_size=8))
def test_any_text_can_be_saved(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / UNLABELLED_FILE
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    make_set(texts=tuple(texts), sources=("file:a",) * len(texts)).save(path)
    assert UnlabelledSet.load(path).texts == tuple(texts)


def test_counts_and_examples():
    made = make_set()
    assert made.counts == {"file": 1, "sampled": 2, "perturbed": 1}
    assert made.examples.labels.tolist() == [UNLABELLED] * 4


@pytest.mark.parametrize("content", [b"", b"PAR1", b"text", None])
def test_file_that_is_no_unlabelled_set_is_refused(tmp_path, content):
    file = tmp_path / "some.parquet"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"some\.parquet: expected an unlabelled set"):
        UnlabelledSet.load(file)


@pytest.mark.parametrize("has_logits", [True, False])
def test_every_flipped_byte_is_noticed_or_harmless(tmp_path, has_logits):
    made = (labelled if has_logits else make_set)(pairs=("1", "2", "3", "4"))
    path = tmp_path / UNLABELLED_FILE
    made.save(path)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 5):
        for mask in (1, 0xFF):
            path.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
            try:
                found = UnlabelledSet.load(path)
            except ArtifactError as error:
                refused += str(path) in str(error)
            else:
                assert same(found, made)  # statistics, say, which are not read
    assert refused > len(content) // 5


def test_set_altered_by_other_programs_is_refused(tmp_path):
    path = tmp_path / UNLABELLED_FILE
    make_set(held_out="some texts").save(path)
    table = pq.read_table(path)
    other_text = table.set_column(table.column_names.index("text"), "text", pa.array(["a", "b", "c", "x"]))
    notes = json.loads(table.schema.metadata[b"potstill"]) | {"held_out": "other texts"}
    other_notes = table.replace_schema_metadata({b"potstill": json.dumps(notes)})
    for changed in (other_text.replace_schema_metadata(table.schema.metadata), other_notes):
        pq.write_table(changed, path)
        with pytest.raises(ArtifactError, match="it was altered"):
            UnlabelledSet.load(path)
