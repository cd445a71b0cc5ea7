"""Our attention for short texts against fused and plain ones in LoRA tuning on a CPU: see `backbone.attention`.

    python benchmarks/attention.py

All take the same training steps on the embedded backbone (forward, backward, no optimiser), in turn, for several
lengths of text. A ratio is ours in tokens per second over PyTorch's fused kernel (`vs_sdpa`) and over the plain one of
`transformers` (`vs_eager`), by length; the result is `benchmarks/results/attention.json`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn.functional import cross_entropy

from common import Run, spread
from potstill.backbone import EMBEDDED, TextClassifier, build_classifier
from potstill.backbone.attention import EAGER, SHORT
from potstill.config import LoRAConfig, RuntimeConfig
from potstill.environment import describe_environment
from potstill.lora import inject
from potstill.training.compute import compress_frozen_matrices, is_mixed, make_fabric

RESULT = Path(__file__).resolve().parent / "results" / "attention.json"
PEERS = ("sdpa", EAGER)
KINDS = (*PEERS, SHORT)
LENGTHS = (8, 16, 32, 64)
BATCH = 32
ROUNDS = 4


def main() -> None:
    """Measure and write the result."""
    torch.manual_seed(0)
    fabric = make_fabric(RuntimeConfig(device="cpu"))
    classifier = build_classifier(EMBEDDED, num_classes=2)
    inject(classifier.model, LoRAConfig())
    if is_mixed(fabric):
        compress_frozen_matrices(classifier)
    classifier.train()
    runs = []
    for length in LENGTHS:
        ids = torch.randint(100, 40_000, (BATCH, length))
        for kind in KINDS:
            _tokens_per_second(fabric, classifier, ids, kind)  # the first pass chooses kernels
        for _ in range(ROUNDS):
            speeds = {kind: _tokens_per_second(fabric, classifier, ids, kind) for kind in KINDS}
            runs.append({"length": length, "tokens_per_second": speeds})
    result = {
        "command": "python benchmarks/attention.py",
        "environment": describe_environment() | {"precision": "bf16-mixed" if is_mixed(fabric) else "32-true"},
        "batch": BATCH,
        "runs": runs,
        "ratios": {f"vs_{peer}": {str(length): _ratio(runs, length, peer) for length in LENGTHS} for peer in PEERS},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _tokens_per_second(fabric: Fabric, classifier: TextClassifier, ids: Tensor, kind: str) -> float:
    """Take one training step with one kind of attention."""
    classifier.model.set_attn_implementation(kind)
    labels = torch.zeros(len(ids), dtype=torch.long)
    started = time.perf_counter()
    with fabric.autocast():
        logits = classifier(ids, torch.ones_like(ids))
    cross_entropy(logits, labels).backward()
    return ids.numel() / (time.perf_counter() - started)


def _ratio(runs: list[Run], length: int, peer: str) -> dict[str, float]:
    speeds = [run["tokens_per_second"] for run in runs if run["length"] == length]
    return spread([of_kind[SHORT] / of_kind[peer] for of_kind in speeds])


if __name__ == "__main__":
    main()
