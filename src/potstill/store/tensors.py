"""Named tensors on disk: safetensors, written atomically, with all names and shapes audited on reading."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from potstill.errors import ArtifactError
from potstill.store.atomic import write_atomically

MARK: Final = {"writer": "potstill"}
"""Metadata of files that are written here."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] = MARK) -> None:
    """Write `tensors` as safetensors, marked as PyTorch's, which `transformers` and `peft` ask for, and as ours.

    Raises:
        ArtifactError: The system refuses. What was at `path` before is unchanged.
    """
    content = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        with safetensors_errors():
            save_file(content, temporary, metadata={"format": "pt", **metadata})
        _sort_metadata(temporary)

    write_atomically(path, write)


@contextmanager
def safetensors_errors() -> Iterator[None]:
    """Turn what safetensors raises while it writes into an OSError, so that a full disk is reported as one."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _sort_metadata(path: Path) -> None:
    """Sort a file's metadata: safetensors writes them in any order, and equal tensors should make equal files.

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


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in the file at `path`, by name; no value is read.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


@torch.no_grad()
def load_tensors(
    parameters: Mapping[str, nn.Parameter], path: Path, *, content: bytes | None = None, ignored: tuple[str, ...] = ()
) -> None:
    """Give `parameters` the values in the file at `path`, which must hold these tensors and no other.

    Args:
        parameters: By their names in the file.
        path: The file.
        content: What was read there and compared with its checksum; None: the file is read.
        ignored: Tensors with any of these in their names may be there too.

    Raises:
        ArtifactError: The file is missing or damaged, or names or shapes differ.
    """
    try:
        found = load_file(path) if content is None else load(content)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    found = {name: tensor for name, tensor in found.items() if not any(part in name for part in ignored)}
    problems = {
        "are missing": parameters.keys() - found.keys(),
        "are not of this model": found.keys() - parameters.keys(),
        "have the wrong shape": {
            f"{name} (expected {tuple(parameter.shape)}, found {tuple(found[name].shape)})"
            for name, parameter in parameters.items()
            if name in found and found[name].shape != parameter.shape
        },
    }
    if wrong := [f"{len(names)} tensors {problem}: {_some(names)}" for problem, names in problems.items() if names]:
        raise ArtifactError(
            f"{path} does not fit this model: {'; '.join(wrong)}\n"
            f"  what to do: use a complete copy of the directory; for a teacher, the backbone that it was tuned from"
        )
    for name, parameter in parameters.items():
        parameter.copy_(found[name])


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path}: expected safetensors, found {error}\n  what to do: train or copy it again")


def _some(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (" …" if len(names) > 3 else "")
