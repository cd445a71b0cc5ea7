"""The state of a training on disk: an interrupted one goes on from it, bit for bit on a CPU.

A checkpoint is one safetensors file: tensors, and the rest as JSON in its metadata. Nothing in it is code. It is
replaced as a whole, it knows which training it belongs to, and its checksum shows whether it is what was written.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from potstill.console import print_line, warn
from potstill.errors import TrainingError
from potstill.executor.signals import Request, Stopped, defer_signals
from potstill.store.checksums import digest
from potstill.store.tensors import save_tensors
from potstill.training import parallel
from potstill.training.base import Callback, State
from potstill.training.compute import describe_fabric
from potstill.training.fit import Trainer

CHECKPOINT_FILE: Final = "checkpoint.safetensors"

_FORMAT: Final = "3"
_TENSOR: Final = "tensor"
"""Key of a tensor's path, where the tensor was packed apart."""
_WRITING_SHARE: Final = 0.02
"""Share of the time that writing checkpoints may take: those of a large model take seconds."""


class Checkpoint(Callback):
    """Writes a training's state now and then, resumes from it, and writes it on Ctrl-C or SIGTERM.

    A fit that ends leaves its result in the file, for the case that its caller is interrupted before the result is
    saved elsewhere; the caller then removes it.
    """

    def __init__(self, path: Path, seconds: float, key: str = "") -> None:
        """Keep the state of a training in the file at `path`.

        There are `seconds` between two writes at least; with 0 there is one after every step. `key` is a digest of what
        decides the result beside model, data and training settings.
        """
        self.path, self._seconds, self._pause, self._key = path, seconds, seconds, key
        self._latest = time.perf_counter()
        self._is_complete = False
        self._request: Request = lambda: None

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Let signals wait for the end of a step, and go back to where the same training was interrupted, if it was."""
        self._request = trainer.stack.enter_context(defer_signals())
        self._key = training_key(trainer, self._key)
        if parallel.any_of(parallel.of_first(self._key) != self._key):
            raise TrainingError(
                "expected the same texts, settings and pretrained weights in all processes, found others in one\n"
                "  what to do: give each machine the same data, backbone and versions of the packages"
            )
        if (state := parallel.of_first(None if parallel.rank() else self._read())) is None:
            return
        context = trainer.context
        for callback in context.callbacks:
            if callback.name:
                callback.on_fit_begin(trainer)
                callback.restore(state[callback.name])
        if state["complete"]:
            self._is_complete = trainer.should_stop = True
            trainer.restore_progress(state["trainer"])
            print_line(f"{context.title}  was trained to its end before")
        else:
            trainer.restore(state["trainer"])
            print_line(f"{context.title}  resumes after step {trainer.steps} of {trainer.total_steps}")

    def on_step(self, trainer: Trainer) -> None:
        """Write a checkpoint if it is time, and end if a signal has come."""
        if time.perf_counter() - self._latest >= self._pause:
            self._write(trainer, trainer.state())
        self._end_if_asked(trainer)

    def on_validation_batch(self, trainer: Trainer) -> None:
        """End if a signal has come. The last step's state is the present one."""
        if parallel.processes() == 1:  # several read different numbers of batches
            self._end_if_asked(trainer)

    def _end_if_asked(self, trainer: Trainer) -> None:
        stopped = self._request()
        if parallel.any_of(stopped is not None):
            stopped = stopped or Stopped(signal.SIGTERM)
            self._write(trainer, trainer.state())
            stopped.kept = f"{trainer.context.title} is kept as it was after step {trainer.steps}"
            raise stopped

    def on_fit_end(self, trainer: Trainer) -> None:
        """Write the result."""
        if not self._is_complete:
            self._is_complete = True
            self._write(trainer, trainer.progress())

    def left(self) -> str:
        """Say where the last good state is."""
        return f"the last good state is in {self.path}" if self.path.is_file() else ""

    def _write(self, trainer: Trainer, state: State) -> None:
        """Replace the checkpoint, and wait the longer for the next, the longer it took.

        Raises:
            ArtifactError: The disk is full, or refuses otherwise; the checkpoint before it stands.
        """
        if parallel.rank():
            return
        started = time.perf_counter()
        states = {callback.name: callback.state() for callback in trainer.context.callbacks if callback.name}
        tensors: dict[str, Tensor] = {}
        notes = json.dumps(pack({"trainer": state, "complete": self._is_complete, **states}, tensors))
        checksum = _checksum(self._key, notes, tensors)
        save_tensors(tensors, self.path, {"key": self._key, "notes": notes, "checksum": checksum})
        self._latest = time.perf_counter()
        if self._seconds > 0.0:
            self._pause = max(self._seconds, (self._latest - started) / _WRITING_SHARE)

    def _read(self) -> State | None:
        """Return what was kept; None where there is no checkpoint of this very training, or it is damaged."""
        try:
            key, state = read_checkpoint(self.path)
            if key == self._key:
                return state
            reason = "belongs to another training"
        except FileNotFoundError:
            return None
        except ValueError as error:
            reason = f"is damaged ({error})"
        warn(f"the checkpoint {self.path} {reason}; the training starts again")
        return None


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
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error
    return metadata["key"], unpack(json.loads(metadata["notes"]), tensors)


def training_key(trainer: Trainer, key: str) -> str:
    """Return a digest of all that decides the result of a training that has not begun, and of `key`."""
    tensors: dict[str, Tensor] = {**dict(trainer.model.named_parameters()), **dict(trainer.model.named_buffers())}
    for split, data in vars(trainer.data).items():
        ids, offsets = map(torch.from_numpy, (data.tokens.ids, data.tokens.offsets))
        parts = {"ids": ids, "offsets": offsets, "labels": data.labels, "logits": data.teacher_logits}
        tensors |= {f"{split}/{name}": tensor for name, tensor in parts.items() if tensor is not None}
    context = trainer.context
    settings = (str(context.seed), context.config.model_dump_json(), *describe_fabric(context.fabric).values())
    return digest([_FORMAT, key, *settings, tensor_digest(tensors)])


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


def _checksum(key: str, notes: str, tensors: Mapping[str, Tensor]) -> str:
    return digest([key, notes, tensor_digest(tensors)])


def pack(state: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Return `state` with the path of each tensor in its place, and put the tensors into `tensors` by their paths."""
    if isinstance(state, Tensor):
        tensors[path] = state.detach().cpu()
        return {_TENSOR: path}
    if isinstance(state, dict):
        return {key: pack(value, tensors, f"{path}/{key}") for key, value in state.items()}
    return state


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo `pack`."""
    if not isinstance(packed, dict):
        return packed
    if packed.keys() == {_TENSOR}:
        return tensors[packed[_TENSOR]]
    return {key: unpack(value, tensors) for key, value in packed.items()}
