import pytest
import torch
from torch import nn

from potstill.config import RuntimeConfig
from potstill.errors import ConfigError
from potstill.training import compute


@pytest.mark.parametrize("fast", [True, False])
def test_auto_takes_bfloat16_where_it_is_fast(monkeypatch, fast):
    monkeypatch.setattr(compute, "has_fast_bfloat16", lambda device: fast)
    fabric = compute.make_fabric(RuntimeConfig(device="cpu"))
    assert compute.is_mixed(fabric) is fast
    assert fabric.device.type == "cpu"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_named_precision_is_taken_as_it_is(precision):
    fabric = compute.make_fabric(RuntimeConfig(device="cpu", precision=precision))
    assert compute.is_mixed(fabric) is (precision == "bf16-mixed")


def test_a_missing_device_is_refused_with_what_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"runtime\.device: 'cuda' is not available here, found cpu"):
        compute.make_fabric(RuntimeConfig(device="cuda"))


def test_bfloat16_is_not_expected_of_apples_gpu():
    assert compute.has_fast_bfloat16("mps") is False


@pytest.mark.parametrize(
    ("there", "times", "fast"),
    [
        (True, {torch.float32: 2.0, torch.bfloat16: 1.0}, True),
        (True, {torch.float32: 1.0, torch.bfloat16: 1.0}, False),  # converting would cost more than nothing
        (True, {torch.float32: 1.0, torch.bfloat16: 2.0}, False),  # Intel's AVX-512 without AMX
        (False, {torch.float32: 2.0, torch.bfloat16: 1.0}, False),
    ],
)
def test_bfloat16_has_to_be_there_and_faster(monkeypatch, there, times, fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: there)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(compute, "product_seconds", lambda *dtypes: [times[dtype] for dtype in dtypes])
    assert compute.has_fast_bfloat16.__wrapped__("cpu") is fast


def test_kinds_of_numbers_are_timed_in_turn_and_the_shortest_time_counts(monkeypatch):
    seconds, timed = iter([3.0, 30.0, 1.0, 20.0, 2.0, 10.0]), []
    monkeypatch.setattr(compute, "_REPEATS", 3)
    monkeypatch.setattr("timeit.timeit", lambda product, number: timed.append(product().dtype) or next(seconds))
    assert compute.product_seconds(torch.float32, torch.bfloat16) == [1.0, 10.0]
    assert timed == [torch.float32, torch.bfloat16] * 3


def test_only_frozen_linear_maps_are_compressed():
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "frozen": nn.Linear(3, 3), "norm": nn.LayerNorm(3)})
    model.requires_grad_(False)
    model["head"] = nn.Linear(3, 2)
    compute.compress_frozen_matrices(model)
    compressed = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.bfloat16}
    assert compressed == {"frozen.weight", "frozen.bias"}
