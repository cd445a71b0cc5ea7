"""Our dropout against PyTorch's in training on a CPU: see `potstill.dropout`.

    python benchmarks/dropout.py

The embedded backbone with adapters and the student of configs/cola.yaml take the same training steps (forward,
backward, no optimiser) with either dropout and with none, in turn. A ratio is ours in tokens per second over PyTorch's
(`vs_torch`) and over none (`vs_none`, which is what there is left to gain); the result is
`benchmarks/results/dropout.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
from torch import nn

from common import AS_SHIPPED, OURS, Run, adapted_backbone, arguments, in_turn, ratios, training_pace, write_result
from potstill.config import LoRAConfig, PotstillConfig
from potstill.dropout import Dropout
from potstill.student.network import DistilRNN, StudentSpec
from potstill.training.compute import describe_compute, make_fabric
from potstill.training.memory import kept_memory

ROOT = Path(__file__).resolve().parent.parent
SHARE = 0.1
STEPS = {"teacher": 1, "student": 40}
"""Training steps in a measurement: of a student's, one is too short."""
BATCH, LENGTH = 64, 16


def main() -> None:
    """Measure and write the result."""
    args = arguments(__doc__).parse_args()
    torch.manual_seed(args.seed)
    fabric = make_fabric(AS_SHIPPED)
    shipped = PotstillConfig.load(ROOT / "configs" / "cola.yaml").student.model_dump()
    shape = {field.name: shipped[field.name] for field in fields(StudentSpec) if field.name in shipped}
    models: dict[str, nn.Module] = {
        "teacher": adapted_backbone(LoRAConfig(dropout=SHARE), fabric),
        "student": DistilRNN(StudentSpec(**shape, num_classes=2, padding_id=0)).train(),
    }
    ids = torch.randint(100, shipped["vocab_size"], (BATCH, LENGTH))

    def run(which: str, kind: type[nn.Dropout], share: float) -> Run:
        for module in models[which].modules():
            if isinstance(module, nn.Dropout):
                module.__class__, module.p = kind, share
        return {"model": which, "tokens_per_second": training_pace(models[which], ids, fabric, STEPS[which])}

    def contestants(which: str) -> dict[str, Callable[[int], Run]]:
        return {
            "torch": lambda _: run(which, nn.Dropout, SHARE),
            OURS: lambda _: run(which, Dropout, SHARE),
            "none": lambda _: run(which, nn.Dropout, 0.0),
        }

    runs: list[Run] = []
    found = {}
    for which in models:
        with kept_memory():  # as in an epoch
            in_turn(contestants(which), 1)  # the first pass chooses kernels
            measured = in_turn(contestants(which), args.rounds)
        runs += measured
        found[which] = ratios(measured, "tokens_per_second")
    precision = describe_compute(AS_SHIPPED)["precision"]
    write_result(args.out, runs, share=SHARE, batch=BATCH, length=LENGTH, precision=precision, ratios=found)


if __name__ == "__main__":
    main()
