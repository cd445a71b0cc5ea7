"""Our dropout against PyTorch's in training on a CPU: see `potstill.lora.dropout`.

    python benchmarks/dropout.py

The builtin backbone with adapters and the student of configs/cola.yaml take the same training steps (forward,
backward, no optimiser) with either dropout and with none. The ratios are our tokens per second over PyTorch's
(`vs_torch`) and over those without dropout (`vs_none`: what there is left to gain).
"""

from __future__ import annotations

import time
from dataclasses import fields

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from common import OURS, ROOT, Run, alternate, arguments, ratios, write_result
from potstill.config import LoRAConfig, PotstillConfig, RuntimeConfig
from potstill.lora import inject
from potstill.lora.dropout import Dropout
from potstill.student.recurrence import RNNSpec
from potstill.student.rnn import DistilRNN
from potstill.teacher.backbone.builtin import BUILTIN
from potstill.teacher.backbone.classifier import build_classifier
from potstill.training.compute import compress_frozen_matrices, describe_compute, is_mixed, make_fabric

RUNTIME = RuntimeConfig(device="cpu")
SHARE = 0.1
STEPS = {"teacher": 1, "student": 40}
"""Training steps in a measurement: of a student's, one is too short."""
BATCH, LENGTH = 64, 16
KINDS: dict[str, tuple[type[nn.Dropout], float]] = {
    "torch": (nn.Dropout, SHARE),
    OURS: (Dropout, SHARE),
    "none": (nn.Dropout, 0.0),
}


def main() -> None:
    """Measure and write the result."""
    args = arguments(__doc__).parse_args()
    torch.manual_seed(args.seed)
    fabric = make_fabric(RUNTIME)
    shipped = PotstillConfig.load(ROOT / "configs" / "cola.yaml").student.model_dump()
    shape = {field.name: shipped[field.name] for field in fields(RNNSpec) if field.name in shipped}
    teacher = build_classifier(BUILTIN, num_classes=2)
    inject(teacher.model, LoRAConfig(dropout=SHARE))
    if is_mixed(fabric):
        compress_frozen_matrices(teacher)
    student = DistilRNN(RNNSpec(**shape, num_classes=2, pad_token_id=0))
    models: dict[str, nn.Module] = {"teacher": teacher.train(), "student": student.train()}
    ids = torch.randint(100, shipped["vocab_size"], (BATCH, LENGTH))
    mask, labels = torch.ones_like(ids), torch.zeros(BATCH, dtype=torch.long)

    def run(which: str, name: str) -> Run:
        for module in models[which].modules():
            if isinstance(module, nn.Dropout):
                module.__class__, module.p = KINDS[name]
        started = time.perf_counter()
        for _ in range(STEPS[which]):
            with fabric.autocast():
                logits = models[which](ids, mask)
            cross_entropy(logits, labels).backward()
        seconds = time.perf_counter() - started
        return {"model": which, "tokens_per_second": STEPS[which] * ids.numel() / seconds}

    runs: list[Run] = []
    found = {}
    for which in models:
        systems = {name: lambda _, name=name, which=which: run(which, name) for name in KINDS}
        alternate(systems, 1)  # the first pass chooses kernels
        measured = alternate(systems, args.rounds)
        runs += measured
        found[which] = ratios(measured, "tokens_per_second")
    precision = describe_compute(RUNTIME)["precision"]
    write_result(args.out, runs, share=SHARE, batch=BATCH, length=LENGTH, precision=precision, ratios=found)


if __name__ == "__main__":
    main()
