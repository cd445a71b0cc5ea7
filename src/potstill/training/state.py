"""The state of a training between two steps: nested dictionaries of JSON values and tensors."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

State = dict[str, Any]
"""Dictionaries in it may hold dictionaries, tensors and what JSON can say."""

_TENSOR: Final = "tensor"


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


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of PyTorch's random generators: the CPU's, and the device's own."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Set the generators back to `state`."""
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])
