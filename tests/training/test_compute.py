import pytest
import torch
from torch import nn

from potstill.config import RuntimeConfig
from potstill.errors import ConfigError
from potstill.training import compute


@pytest.mark.parametrize(
    ("precision", "is_fast", "is_mixed"),
    [("auto", True, True), ("auto", False, False), ("32-true", True, False), ("bf16-mixed", False, True)],
)
def test_auto_takes_bfloat16_where_it_is_fast(monkeypatch, precision, is_fast, is_mixed):
    monkeypatch.setattr(compute, "has_fast_bfloat16", lambda device: is_fast)
    fabric = compute.make_fabric(RuntimeConfig(device="cpu", precision=precision))
    assert compute.is_mixed(fabric) is is_mixed
    assert fabric.device.type == "cpu"


def test_a_missing_device_is_refused_with_those_that_exist(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"runtime\.device: 'cuda' is not available here, found cpu"):
        compute.make_fabric(RuntimeConfig(device="cuda"))


@pytest.mark.parametrize(
    ("has_amx", "has_avx512", "processor", "fast"),
    [
        (True, False, "Intel", True),
        (False, True, "AMD EPYC", True),
        (False, True, "Intel", False),  # AVX-512 without AMX
        (False, False, "AMD EPYC", False),
    ],
)
def test_bfloat16_is_fast_with_amx_or_amds_avx512(monkeypatch, has_amx, has_avx512, processor, fast):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512)
    monkeypatch.setattr(compute, "processor_name", lambda: processor)
    assert compute.has_fast_bfloat16("cpu") is fast
    assert compute.has_fast_bfloat16("mps") is False


def test_as_many_workers_as_threads_unless_a_gpu_computes(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute.available_workers(RuntimeConfig(device="cpu")) == 3
    assert compute.available_workers(RuntimeConfig(workers=5)) == 5
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute.available_workers(RuntimeConfig(device="cpu")) == 1


def test_only_frozen_linear_maps_are_compressed():
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "frozen": nn.Linear(3, 3), "norm": nn.LayerNorm(3)})
    model.requires_grad_(False)
    model["head"] = nn.Linear(3, 2)
    compute.compress_frozen_matrices(model)
    compressed = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.bfloat16}
    assert compressed == {"frozen.weight", "frozen.bias"}
