"""The state of a training between two steps, on disk: what an interrupted one goes on from, bit for bit.

A checkpoint is one safetensors file: tensors, and the rest as JSON in its metadata. Nothing in it is code. It is
replaced as a whole, it knows which training it is of, and its checksum tells whether it is what was written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from potstill.artifacts import digest
from potstill.config import RuntimeConfig, Settings
from potstill.console import warn
from potstill.data.tokenised import TrainingSet
from potstill.files import write_atomically
from potstill.tensors import system_errors

CHECKPOINT_FILE: Final = "checkpoint.safetensors"

_FORMAT: Final = "1"
_WRITING_SHARE: Final = 0.02
"""Share of the time that writing checkpoints may take. All weights of a large model, with the optimiser's two moments
and the best epoch's copy, take seconds to write: they are kept the less often."""


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often a fit keeps its state.

    Attributes:
        path: The file. A fit that ends leaves its result there, for the case that its caller is interrupted before the
            result stands elsewhere; then the caller removes it.
        seconds: Time between two checkpoints at least; 0: one after every step, however long that takes.
        key: What decides the result beside what `fit` looks at itself: the objective's settings.
    """

    path: Path
    seconds: float
    key: str = ""

    @classmethod
    def of(cls, runtime: RuntimeConfig, path: Path, *stages: Settings) -> Checkpointing | None:
        """Say where a training with the settings of `stages` keeps its state; None where it is not to be kept."""
        if runtime.checkpoint_seconds is None:
            return None
        settings = runtime.model_dump_json(exclude={"checkpoint_seconds"})
        key = digest([settings, *(stage.model_dump_json() for stage in stages)])
        return cls(path, runtime.checkpoint_seconds, key)


@dataclass(frozen=True)
class State:
    """Part of a training, or all of it.

    Attributes:
        notes: What JSON can say.
        tensors: All else, by name.
    """

    notes: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, name: str) -> State:
        """Return the part that `joined` was given under this name."""
        start = f"{name}/"
        found = {key.removeprefix(start): tensor for key, tensor in self.tensors.items() if key.startswith(start)}
        return State(self.notes[name], found)


def joined(**parts: State) -> State:
    """Make one state of several, each under its name."""
    tensors = {f"{name}/{key}": tensor for name, part in parts.items() for key, tensor in part.tensors.items()}
    return State({name: part.notes for name, part in parts.items()}, tensors)


def random_state(device: torch.device) -> State:
    """Return the state of PyTorch's random generators: the CPU's, and the device's own."""
    tensors = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        tensors["mps"] = torch.mps.get_rng_state()
    return State({}, tensors)


def restore_random_state(state: State, device: torch.device) -> None:
    """Set the generators back to `state`."""
    torch.set_rng_state(state.tensors["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state.tensors["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state.tensors["mps"])


def training_key(tensors: Mapping[str, Tensor], sets: Iterable[TrainingSet], settings: Iterable[str]) -> str:
    """Return a digest of what a training begins with: its checkpoints are for no other one.

    Args:
        tensors: The model's parameters and buffers, frozen ones too, before the first step.
        sets: What it learns from and is judged by. What may take gigabytes is told by what decides it: a teacher's
            hidden states by their key, the frozen blocks' by texts and tensors.
        settings: All else.
    """
    parts = [_FORMAT, *settings, tensor_digest(tensors)]
    for data in sets:
        hidden = "" if data.hidden is None else data.hidden.key
        parts += [digest([data.tokens.ids.tobytes(), data.tokens.offsets.tobytes()]), hidden]
        told = {"labels": data.labels, "logits": data.teacher_logits, "weights": data.weights}
        parts.append(tensor_digest({name: tensor for name, tensor in told.items() if tensor is not None}))
    return digest(parts)


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors with their names, kinds and shapes, in the order of their names."""
    return digest(
        part
        for name, tensor in sorted(tensors.items())
        for part in (name, f"{tensor.dtype} {tuple(tensor.shape)}", _content(tensor))
    )


def _content(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()  # NumPy has no bfloat16


class Checkpointer:
    """Writes a training's checkpoints, as often as it may."""

    def __init__(self, checkpointing: Checkpointing, key: str) -> None:
        self.path = checkpointing.path
        self._seconds = self._pause = checkpointing.seconds
        self._key = digest([checkpointing.key, key])
        self._latest = time.perf_counter()

    @property
    def is_due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return time.perf_counter() - self._latest >= self._pause

    def write(self, state: State) -> None:
        """Replace the checkpoint, and wait the longer for the next, the longer it took.

        Raises:
            ArtifactError: The disk is full, or refuses otherwise; the checkpoint before it stands.
        """
        started = time.perf_counter()
        notes = json.dumps(state.notes)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        metadata = {"key": self._key, "notes": notes, "checksum": _checksum(self._key, notes, tensors)}
        write_atomically(self.path, lambda temporary: _save(tensors, temporary, metadata))
        self._latest = time.perf_counter()
        if self._seconds > 0.0:
            self._pause = max(self._seconds, (self._latest - started) / _WRITING_SHARE)

    def read(self) -> State | None:
        """Return what was kept; None where there is none of this very training, or it is not what was written."""
        try:
            key, state = read_checkpoint(self.path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            self._warn(f"is damaged ({error})")
            return None
        if key != self._key:
            self._warn("is of another training")
            return None
        return state

    def _warn(self, reason: str) -> None:
        warn(f"the checkpoint {self.path} {reason}; the training begins anew")


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    with system_errors():
        save_file(tensors, path, metadata=metadata)


def read_checkpoint(path: Path) -> tuple[str, State]:
    """Return the key of the training that wrote a checkpoint, and the state in it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — no mapping
        if metadata["checksum"] != _checksum(metadata["key"], metadata["notes"], tensors):
            raise ValueError("its checksum differs")
        return metadata["key"], State(json.loads(metadata["notes"]), tensors)
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error


def _checksum(key: str, notes: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of all that a checkpoint holds."""
    return digest([key, notes, tensor_digest(tensors)])
