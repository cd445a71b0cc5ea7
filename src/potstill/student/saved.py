"""A saved student's network, read back for PyTorch."""

from __future__ import annotations

from pathlib import Path

from potstill.errors import ArtifactError
from potstill.predict.directory import Manifest, StudentFiles, require_student
from potstill.store.checksums import read
from potstill.store.tensors import load_tensors
from potstill.student.base import Network
from potstill.student.registry import student_class


def load_network(directory: Path | str) -> Network:
    """Read the weights of a student, in evaluation mode.

    Raises:
        ArtifactError: It is incomplete or damaged, or its files don't belong together.
    """
    files = StudentFiles(Path(directory))
    require_student(files.directory)
    found = read(files.directory, (files.manifest.name, files.weights.name))
    manifest = Manifest.parse(found[files.manifest.name], files.manifest)
    network = new_network(manifest, files.directory)
    load_tensors(dict(network.named_parameters()), files.weights, content=found[files.weights.name])
    return network.eval()


def new_network(manifest: Manifest, directory: Path) -> Network:
    """Make the network of the student in `directory`, with random weights.

    Raises:
        ArtifactError: Its kind is not known, or its shape is not one of that kind.
    """
    try:
        kind = student_class(manifest.kind)
        return kind(kind.spec_class(**manifest.spec))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{StudentFiles(directory).manifest} is damaged: expected a kind of student and its shape as spec, found "
            f"{error}\n  what to do: restore it, or save the student again"
        ) from None
