"""Device and precision, by Lightning Fabric."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import timeit
from typing import Final

import torch
from lightning_fabric import Fabric
from torch import nn

from potstill.config import RuntimeConfig
from potstill.errors import ConfigError

_TOKENS, _IN, _OUT = 128, 576, 1536  # a few texts before an up-projection of the embedded backbone
_REPEATS: Final = 20
"""Some of so many products, of a millisecond or two each, are done undisturbed on a busy machine too: a run that is
resumed has to come to the same answer."""
_WORTHWHILE: Final = 1.25
"""How many times as fast a product in bfloat16 must be: what surrounds it has to be converted to it and back."""

EXACT: Final = RuntimeConfig(device="cpu", precision="32-true")
"""For weights that are to be written as they are."""


def make_fabric(config: RuntimeConfig) -> Fabric:
    """Set up device and precision.

    Args:
        config: What was asked for.

    Raises:
        ConfigError: The device is not there, or the compiler that was asked for.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = config.device
    if device == "auto":
        device = "cuda" if available["cuda"] else "cpu"  # Apple's is not chosen unasked: it is slow for small models
    if not available[device]:
        found = ", ".join(name for name, there in available.items() if there)
        raise ConfigError([f"runtime.device: {device!r} is not available here, found {found}"])
    if config.compile and device == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ConfigError(["runtime.compile: expected a C++ compiler, found none; install g++, name another in CXX"])
    precision = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if has_fast_bfloat16(device) else "32-true"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it says stands in environment.json
    return Fabric(accelerator=device, devices=1, precision=precision)


def describe_compute(config: RuntimeConfig) -> dict[str, str]:
    """Return what `auto` comes down to on this machine: the device, and the precision."""
    return describe_fabric(make_fabric(config))


def describe_fabric(fabric: Fabric) -> dict[str, str]:
    """Return device and precision by name."""
    return {"device": fabric.device.type, "precision": str(fabric._precision.precision)}


@functools.cache
def has_fast_bfloat16(device: str) -> bool:
    """Say whether `device` multiplies bfloat16 faster than float32.

    Without instructions for it bfloat16 is emulated. With them a processor may still be slower than in float32: Intel's
    AVX-512 is, its AMX is several times as fast, AMD's AVX-512 about twice. So it is measured, which takes a moment;
    the two are too far apart for the answer to change from one time to the next.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        # PyTorch has no public name for these yet.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        there = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
        if there:
            exact, half = product_seconds(torch.float32, torch.bfloat16)
            return exact > _WORTHWHILE * half
    return False


@torch.no_grad()
def product_seconds(*dtypes: torch.dtype) -> list[float]:
    """Return the time of a matrix product on the CPU in each kind of number, the shortest of some tries, in turn."""
    products = [
        functools.partial(torch.mm, torch.ones(_TOKENS, _IN, dtype=dtype), torch.ones(_OUT, _IN, dtype=dtype).T)
        for dtype in dtypes
    ]
    tries = [[timeit.timeit(product, number=1) for product in products] for _ in range(_REPEATS)]
    return [min(times) for times in zip(*tries, strict=True)]


def is_mixed(fabric: Fabric) -> bool:
    """Say whether matrix products run in bfloat16."""
    return str(fabric._precision.precision) == "bf16-mixed"


def compress_frozen_matrices(model: nn.Module) -> None:
    """Keep the frozen weights of linear maps in bfloat16.

    Autocast would convert each of them anew in every forward pass. Embeddings and normalisation layers stay in
    float32, and with them the residual stream.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        matrix = isinstance(weight, nn.Parameter) and weight.dim() == 2 and not isinstance(module, nn.Embedding)
        if matrix and not any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)
