"""Low-rank adapters: the layer, its injection into a model, and what is kept of it on disk."""

from potstill.lora.inject import absorb_adapters, adapters, inject, merged
from potstill.lora.layer import LoRALinear
from potstill.lora.state import ADAPTER_FILES, load_adapter, save_adapter, saved_embedding_rows, tensor_name

__all__ = [
    "ADAPTER_FILES",
    "LoRALinear",
    "absorb_adapters",
    "adapters",
    "inject",
    "load_adapter",
    "merged",
    "save_adapter",
    "saved_embedding_rows",
    "tensor_name",
]
