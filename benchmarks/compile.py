"""Compiled against plain blocks in LoRA tuning: the reason for the default of `runtime.compile`.

    python benchmarks/compile.py

Both take the same training steps (forward, backward, no optimiser) on the embedded backbone, in turn, for several
lengths of text. The ratio is compiled steps per second over plain ones; `compile_seconds` is what the first compiled
step of each length took beyond a plain one, with inductor's cache on disk empty. From both follows how many steps it
takes until compiling has paid. The result is `benchmarks/results/compile.json`.
"""

from __future__ import annotations

import os
import tempfile
import time

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from common import OURS, RUNTIME, Run, arguments, in_turn, ratios, write_result
from potstill.backbone import EMBEDDED, TextClassifier, build_classifier
from potstill.config import LoRAConfig
from potstill.lora import inject
from potstill.training import make_fabric

LENGTHS = (8, 16, 32)
SENTENCES = 32


def main() -> None:
    """Measure and write the result."""
    args = arguments(__doc__).parse_args()
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        make_fabric(RUNTIME.model_copy(update={"compile": True}))  # says so where there is no compiler
        classifier = build_classifier(EMBEDDED, num_classes=2)
        inject(classifier.model, LoRAConfig())
        classifier.model.set_attn_implementation("eager")  # as `Teacher` has it on a CPU
        classifier.train()
        classifier.compile_blocks()
        runs: list[Run] = []
        compile_seconds = {}
        for length in LENGTHS:
            ids = torch.randint(100, 40_000, (SENTENCES, length))
            plain = _step(classifier, ids, compiled=False)
            compile_seconds[length] = _step(classifier, ids, compiled=True) - plain
            contestants = {
                name: lambda _, ids=ids, compiled=compiled: {
                    "sentences": SENTENCES,
                    "length": ids.shape[1],
                    "steps_per_second": 1 / _step(classifier, ids, compiled=compiled),
                }
                for name, compiled in (("plain", False), (OURS, True))
            }
            measured = in_turn(contestants, args.rounds)
            # A round of another length is another round: ratios are taken within one.
            runs += [{**run, "round": f"{run['length']} tokens, {run['round']}"} for run in measured]
    write_result(
        args.out, runs, ratios=ratios(runs, "steps_per_second"), compile_seconds=compile_seconds, sentences=SENTENCES
    )


def _step(classifier: TextClassifier, ids: Tensor, *, compiled: bool) -> float:
    """Take a training step; return its seconds."""
    started = time.perf_counter()
    with torch.compiler.set_stance("default" if compiled else "force_eager"):
        logits = classifier(ids, torch.ones_like(ids))
        cross_entropy(logits, torch.zeros(len(ids), dtype=torch.long)).backward()
    classifier.zero_grad()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
