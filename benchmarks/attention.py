"""Our attention for short texts against fused and plain ones in LoRA tuning on a CPU: see `backbone.attention`.

    python benchmarks/attention.py

All take the same training steps on the embedded backbone (forward, backward, no optimiser), in turn, for several
lengths of text. A ratio is ours in tokens per second over PyTorch's fused kernel (`vs_sdpa`) and over the plain one of
`transformers` (`vs_eager`), by length; the result is `benchmarks/results/attention.json`.
"""

from __future__ import annotations

import time

import torch
from torch.nn.functional import cross_entropy

from common import AS_SHIPPED, OURS, Run, arguments, in_turn, ratios, write_result
from potstill.backbone import EMBEDDED, build_classifier
from potstill.backbone.attention import EAGER, SHORT
from potstill.config import LoRAConfig
from potstill.lora import inject
from potstill.training.compute import compress_frozen_matrices, describe_compute, is_mixed, make_fabric

KINDS = {"sdpa": "sdpa", "eager": EAGER, OURS: SHORT}
"""What `transformers` calls each contestant's attention."""
LENGTHS = (8, 16, 32, 64)
BATCH = 32


def main() -> None:
    """Measure and write the result."""
    args = arguments(__doc__).parse_args()
    torch.manual_seed(args.seed)
    fabric = make_fabric(AS_SHIPPED)
    classifier = build_classifier(EMBEDDED, num_classes=2)
    inject(classifier.model, LoRAConfig())
    if is_mixed(fabric):
        compress_frozen_matrices(classifier)
    classifier.train()

    def step(name: str, length: int) -> Run:
        """Take one training step with one kind of attention."""
        classifier.model.set_attn_implementation(KINDS[name])
        ids, labels = torch.randint(100, 40_000, (BATCH, length)), torch.zeros(BATCH, dtype=torch.long)
        started = time.perf_counter()
        with fabric.autocast():
            logits = classifier(ids, torch.ones_like(ids))
        cross_entropy(logits, labels).backward()
        return {"length": length, "tokens_per_second": ids.numel() / (time.perf_counter() - started)}

    runs: list[Run] = []
    for length in LENGTHS:
        for name in KINDS:
            step(name, length)  # the first pass chooses kernels
        runs += in_turn({name: lambda _, name=name, length=length: step(name, length) for name in KINDS}, args.rounds)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for length in LENGTHS:
        of_length = ratios([run for run in runs if run["length"] == length], "tokens_per_second")
        for peer, ratio in of_length.items():
            found.setdefault(peer, {})[str(length)] = ratio
    precision = describe_compute(AS_SHIPPED)["precision"]
    write_result(args.out, runs, batch=BATCH, precision=precision, ratios=found)


if __name__ == "__main__":
    main()
