"""Trained tensors on disk: written atomically, audited when they are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from potstill.errors import ArtifactError
from potstill.files import write_atomically

MARK: Final = {"writer": "potstill"}
"""Metadata of what is written here."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write `tensors` as safetensors, marked as PyTorch's, which `transformers` and `peft` ask for, and as ours.

    Raises:
        ArtifactError: The system refuses. What stood at `path` before is as it was.
    """
    content = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        with system_errors():
            save_file(content, temporary, metadata={"format": "pt", **MARK})
        _order_metadata(temporary)

    write_atomically(path, write)


@contextmanager
def system_errors() -> Iterator[None]:
    """Let what safetensors raises while it writes be an OSError, as it is elsewhere: a full disk is told as one.

    What the system said is in its words alone.
    """
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _order_metadata(path: Path) -> None:
    """Put a file's metadata in order: safetensors writes them in any, and equal tensors should make equal files.

    The layout: https://github.com/huggingface/safetensors#format
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(ordered) == length:
            file.seek(8)
            file.write(ordered)


@torch.no_grad()
def load_tensors(
    parameters: Mapping[str, nn.Parameter], path: Path, *, content: bytes | None = None, ignored: tuple[str, ...] = ()
) -> None:
    """Give `parameters` the values in the file at `path`, which must hold these tensors and no other.

    Args:
        parameters: By their names in the file.
        path: The file.
        content: What was read there, and compared with its seal; None: the file is read.
        ignored: Tensors with any of these in their names may stand there too.

    Raises:
        ArtifactError: The file is missing or damaged, or names or shapes differ. A head that is missing, say, would
            otherwise stay random without a word.
    """
    try:
        found = load_file(path) if content is None else load(content)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{path}: expected safetensors, found {error}\n  what to do: train or copy it again"
        ) from None
    found = {name: tensor for name, tensor in found.items() if not any(part in name for part in ignored)}
    _audit(parameters, found, path)
    for name, parameter in parameters.items():
        parameter.copy_(found[name])


def _audit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    problems = []
    if missing := sorted(expected.keys() - found.keys()):
        problems.append(f"{len(missing)} tensors are missing: {_some(missing)}")
    if unexpected := sorted(found.keys() - expected.keys()):
        problems.append(f"{len(unexpected)} tensors are not of this model: {_some(unexpected)}")
    wrong = [
        f"{name} (expected {tuple(expected[name].shape)}, found {tuple(found[name].shape)})"
        for name in sorted(expected.keys() & found.keys())
        if expected[name].shape != found[name].shape
    ]
    if wrong:
        problems.append(f"{len(wrong)} tensors have the wrong shape: {_some(wrong)}")
    if problems:
        raise ArtifactError(
            f"{path} does not fit this model: {'; '.join(problems)}\n"
            f"  what to do: use a complete copy of the directory; for a teacher, the backbone that it was tuned from"
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
