"""Low-rank adapters: the layer, its injection into a model, and what is kept of it on disk."""

from potstill.lora.inject import adapters, inject, merge_adapters, unmerge_adapters
from potstill.lora.layer import LoRALinear
from potstill.lora.state import ADAPTER_FILES, CONFIG_FILE, load_adapter, save_adapter

__all__ = [
    "ADAPTER_FILES",
    "CONFIG_FILE",
    "LoRALinear",
    "adapters",
    "inject",
    "load_adapter",
    "merge_adapters",
    "save_adapter",
    "unmerge_adapters",
]
