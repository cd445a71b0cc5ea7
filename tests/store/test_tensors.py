import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from potstill.errors import ArtifactError
from potstill.store import tensors
from potstill.store.tensors import save_tensors

VALUES = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.é": torch.ones(1)}


def test_equal_tensors_make_equal_files(tmp_path):
    """safetensors alone writes its metadata in any order: of forty files some would differ."""
    path = tmp_path / "file"
    contents = set()
    for _ in range(40):
        save_tensors(VALUES, path)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    found = load_file(path)
    assert found.keys() == VALUES.keys()
    assert all(torch.equal(found[name], VALUES[name]) for name in VALUES)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "writer": "potstill"}


def test_a_full_disk_is_told_and_the_old_file_stands(tmp_path, monkeypatch):
    path = tmp_path / "file"
    save_tensors(VALUES, path)
    old = path.read_bytes()

    def full(content, file, metadata):
        file.write_bytes(b"half")
        raise SafetensorError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })')

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(ArtifactError, match=rf"{path} can't be written: .*No space left on device"):
        save_tensors({}, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
