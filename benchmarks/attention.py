"""Plain attention, by which teachers attend on a CPU, against PyTorch's fused one, in LoRA tuning.

    python benchmarks/attention.py

Both take the same training steps on the embedded backbone (forward, backward, no optimiser), in turn, for several
lengths of text, in the precision that Potstill chooses and in float32. A ratio is the plain one's tokens per second
over those of the fused one (`vs_sdpa`), by precision and length; the result is `benchmarks/results/attention.json`.
"""

from __future__ import annotations

import torch

from common import (
    AS_SHIPPED,
    OURS,
    RUNTIME,
    Run,
    adapted_backbone,
    arguments,
    in_turn,
    ratios,
    training_pace,
    write_result,
)
from potstill.config import LoRAConfig, RuntimeConfig
from potstill.training.compute import describe_compute, make_fabric
from potstill.training.memory import kept_memory

KINDS = {"sdpa": "sdpa", OURS: "eager"}
"""What `transformers` calls each contestant's attention."""
LENGTHS = (8, 16, 32, 64)
BATCH = 32


def main() -> None:
    """Measure and write the result."""
    args = arguments(__doc__).parse_args()
    torch.manual_seed(args.seed)
    runs: list[Run] = []
    found: dict[str, dict[str, dict[str, float]]] = {}
    for runtime in (AS_SHIPPED, RUNTIME):
        precision = describe_compute(runtime)["precision"]
        if precision in found:  # the processor has no fast bfloat16
            continue
        measured = measure(runtime, args.rounds)
        runs += [run | {"precision": precision} for run in measured]
        found[precision] = {
            str(length): ratios([run for run in measured if run["length"] == length], "tokens_per_second")["vs_sdpa"]
            for length in LENGTHS
        }
    write_result(args.out, runs, batch=BATCH, ratios={"vs_sdpa": found})


def measure(runtime: RuntimeConfig, rounds: int) -> list[Run]:
    """Take the steps in one precision."""
    fabric = make_fabric(runtime)
    classifier = adapted_backbone(LoRAConfig(), fabric)

    def step(name: str, length: int) -> Run:
        """Take one training step with one kind of attention."""
        classifier.model.set_attn_implementation(KINDS[name])
        ids = torch.randint(100, 40_000, (BATCH, length))
        return {"length": length, "tokens_per_second": training_pace(classifier, ids, fabric)}

    runs: list[Run] = []
    with kept_memory():  # as in an epoch
        for length in LENGTHS:
            contestants = {name: lambda _, name=name, length=length: step(name, length) for name in KINDS}
            in_turn(contestants, 1)  # the first pass chooses kernels
            runs += in_turn(contestants, rounds)
    return runs


if __name__ == "__main__":
    main()
