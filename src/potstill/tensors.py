"""Trained tensors on disk: written atomically, audited when they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from potstill.artifacts import write_atomically
from potstill.errors import ArtifactError

MARK: Final = {"writer": "potstill"}
"""Metadata of what is written here."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write `tensors` as safetensors, marked as PyTorch's, which `transformers` and `peft` ask for, and as ours."""
    content = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(content, temporary, metadata={"format": "pt", **MARK}))


@torch.no_grad()
def load_tensors(parameters: Mapping[str, nn.Parameter], path: Path, *, ignored: tuple[str, ...] = ()) -> None:
    """Give `parameters` the values in the file at `path`, which must hold these tensors and no other.

    Args:
        parameters: By their names in the file.
        path: The file.
        ignored: Tensors with any of these in their names may stand there too.

    Raises:
        ArtifactError: The file is missing or damaged, or names or shapes differ. A head that is missing, say, would
            otherwise stay random without a word.
    """
    try:
        found = load_file(path)
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
            f"{path} does not fit this backbone: {'; '.join(problems)}\n"
            f"  what to do: use the backbone that it was trained on, and a complete copy of the directory"
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
