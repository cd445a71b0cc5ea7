"""Our dropout against PyTorch's in training on a CPU: see `potstill.dropout`.

    python benchmarks/dropout.py

The embedded backbone with adapters and the student of configs/cola.yaml take the same training steps (forward,
backward, no optimiser) with either dropout and with none, in turn. A ratio is ours in tokens per second over PyTorch's
(`vs_torch`) and over none (`vs_none`, which is what there is left to gain); the result is
`benchmarks/results/dropout.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common import AS_SHIPPED, OURS, Run, arguments, in_turn, ratios, write_result
from potstill.backbone import EMBEDDED, build_classifier
from potstill.config import LoRAConfig
from potstill.dropout import Dropout
from potstill.lora import inject
from potstill.student.network import DistilRNN, StudentSpec
from potstill.training.compute import compress_frozen_matrices, describe_compute, is_mixed, make_fabric
from potstill.training.memory import kept_memory

SHARE = 0.1
STUDENT = StudentSpec(
    vocab_size=8000,
    num_classes=2,
    padding_id=0,
    embedding_size=128,
    cell="lstm",
    hidden_size=256,
    num_layers=1,
    bidirectional=True,
    dropout=SHARE,
    pooling="max",
    surprisal_size=256,
)
STEPS = {"teacher": 1, "student": 40}
"""Training steps in a measurement: of a student's, one is too short."""
BATCH, LENGTH = 64, 16


def main() -> None:
    """Measure and write the result."""
    args = arguments(__doc__).parse_args()
    torch.manual_seed(args.seed)
    fabric = make_fabric(AS_SHIPPED)
    teacher = build_classifier(EMBEDDED, num_classes=2)
    inject(teacher.model, LoRAConfig(dropout=SHARE))
    if is_mixed(fabric):
        compress_frozen_matrices(teacher)
    models: dict[str, nn.Module] = {"teacher": teacher, "student": DistilRNN(STUDENT)}
    ids, labels = torch.randint(100, 8000, (BATCH, LENGTH)), torch.zeros(BATCH, dtype=torch.long)

    def run(which: str, kind: type[nn.Dropout], share: float) -> Run:
        model = models[which].train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.__class__, module.p = kind, share
        started = time.perf_counter()
        for _ in range(STEPS[which]):
            with fabric.autocast():
                logits: Tensor = model(ids, torch.ones_like(ids))
            cross_entropy(logits, labels).backward()
        tokens = STEPS[which] * ids.numel()
        return {"model": which, "tokens_per_second": tokens / (time.perf_counter() - started)}

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
