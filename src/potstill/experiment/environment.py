"""What a result was computed with: versions, threads, machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from potstill.training.compute import processor_name

_PACKAGES = ("potstill", "torch", "transformers", "tokenizers", "lightning-fabric", "numpy", "onnxruntime")


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware by name, ready for JSON."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{package: version(package) for package in _PACKAGES},
    }
