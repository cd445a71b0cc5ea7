"""Device and precision, by Lightning Fabric."""

from __future__ import annotations

import logging
import platform
from functools import cache
from typing import Final, Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from potstill.config import RuntimeConfig
from potstill.errors import ConfigError
from potstill.training import parallel

Precision = Literal["32-true", "bf16-mixed"]

EXACT: Final = RuntimeConfig(device="cpu", precision="32-true")
"""For weights that are to be written as they are."""


def make_fabric(config: RuntimeConfig) -> Fabric:
    """Set up device and precision.

    Raises:
        ConfigError: This machine does not have the device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device, precision = config.device, config.precision
    if device == "auto":
        device = "cuda" if available["cuda"] else "cpu"  # not Apple's, which is slow with small models
    if not available[device]:
        found = ", ".join(name for name, there in available.items() if there)
        raise ConfigError([f"runtime.device: {device!r} is not available here, found {found}"])
    if precision == "auto":
        precision = "bf16-mixed" if has_fast_bfloat16(device) else "32-true"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # environment.json holds what it says
    number = torch.cuda.current_device() if device == "cuda" and parallel.processes() > 1 else None
    return _fabric(device, number, precision)


@cache
def _fabric(device: str, number: int | None, precision: Precision) -> Fabric:
    """Make each once: to make one, Fabric looks through all installed packages."""
    return Fabric(accelerator=device, devices=1 if number is None else [number], precision=precision)


def describe_fabric(fabric: Fabric) -> dict[str, str]:
    """Return device and precision by name."""
    return {"device": fabric.device.type, "precision": str(fabric._precision.precision)}


def is_mixed(fabric: Fabric) -> bool:
    """Say whether matrix products run in bfloat16."""
    return describe_fabric(fabric)["precision"] == "bf16-mixed"


def has_fast_bfloat16(device: str) -> bool:
    """Say whether `device` multiplies bfloat16 faster than float32; the same machine always gives the same answer.

    Without instructions for it bfloat16 is emulated. With them a CPU may still be slower than in float32: Intel's
    AVX-512 BF16 is, its AMX is several times as fast, AMD's AVX-512 BF16 about twice.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu":
        return False
    # PyTorch has no public name for these yet.
    has_amx, has_avx512 = (
        getattr(torch.cpu, probe, lambda: False)() for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return bool(has_amx or (has_avx512 and "AMD" in processor_name()))


def processor_name() -> str:
    """Name the processor; `platform.processor` is empty on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 — no regular file
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def available_workers(config: RuntimeConfig) -> int:
    """Return how many local processes to use: `workers`, else one on a machine with a GPU, else one per thread."""
    if config.workers is not None:
        return config.workers
    return torch.get_num_threads() if make_fabric(config).device.type == "cpu" and not torch.cuda.is_available() else 1


def compress_frozen_matrices(model: nn.Module) -> None:
    """Keep the frozen weights of linear maps in bfloat16.

    Autocast would convert each of them anew in every forward pass: that takes 1.22 times as long for one token of 64
    texts, as sampling reads them, 1.11 times for a step of tuning (smollm2-135m, one thread, CPU time, AMD EPYC), and
    twice the memory. Embeddings and normalisation layers stay in float32, and with them the residual stream.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        matrix = isinstance(weight, nn.Parameter) and weight.dim() == 2 and not isinstance(module, nn.Embedding)
        own = list(module.parameters(recurse=False))
        if matrix and not any(parameter.requires_grad for parameter in own):
            for parameter in own:
                parameter.data = parameter.data.to(torch.bfloat16)
