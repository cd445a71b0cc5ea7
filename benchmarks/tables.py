"""Write the committed results into the documents, between their markers, so that no number is typed by hand.

python benchmarks/tables.py            rewrite README.md and docs/benchmarks.md
python benchmarks/tables.py --check    fail if they don't show what benchmarks/results/ holds
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = {"README.md": ("results",), "docs/benchmarks.md": ("results", "reference")}
SOURCES = {"results": "cola", "reference": "reference"}
NAMES = {"teacher": "Teacher (LoRA)", "distilled": "Distilled student", "baseline": "Baseline student"}


def table(result: dict[str, Any]) -> str:
    """Lay out one result as Markdown, with what it was computed on and how."""
    config, data, environment = result["config"], result["data"], result["environment"]
    teacher = f"{NAMES['teacher']}, `{config['teacher']['backbone']}`"
    rows = [
        "| model | parameters | trainable | accuracy | MCC | seeds |",
        "| --- | --: | --: | --: | --: | --: |",
        *(_row(teacher if role == "teacher" else name, result[role]) for role, name in NAMES.items()),
        _row(f'always "{data["majority_label"]}"', result["majority"]),
    ]
    difference = result["paired_test"]
    p_value = difference["p_value"]
    notes = [
        f"{data['name']}: {data['train']:,} sentences to train on, {data['selection']:,} to choose epochs, "
        f"{data['evaluation']:,} read once for this table; mean ± sample standard deviation over seeds.",
        f"Distilled against baseline, paired over {difference['seeds']} seeds: MCC {difference['mean_difference']:+.3f}"
        + (f" (t-test, p = {p_value:.3f})." if p_value is not None else "."),
        *_verdicts(result),
        f"`{result['command']}` on {environment['processor']}, {environment['cores']} cores, torch "
        f"{environment['torch']}.",
    ]
    return "\n".join([*rows, "", "\n".join(notes)])


def _row(name: str, scores: dict[str, Any]) -> str:
    seeds = len(scores["mcc"]["seeds"])
    spread = seeds > 1
    accuracy = f"{scores['accuracy']['mean']:.2%}" + (f" ± {100 * scores['accuracy']['std']:.2f}" if spread else "")
    mcc = f"{scores['mcc']['mean']:.3f}" + (f" ± {scores['mcc']['std']:.3f}" if spread else "")
    counts = [_count(scores[key]) for key in ("parameters", "trainable_parameters")]
    return "| " + " | ".join([name, *counts, accuracy, mcc, str(seeds)]) + " |"


def _count(number: int) -> str:
    return f"{number / 1e6:.2f}M" if number else "0"


def _verdicts(result: dict[str, Any]) -> list[str]:
    """Name the models that learnt nothing, in plain words."""
    lines = []
    for role, name in NAMES.items():
        verdicts = [entry["verdict"] for entry in result["verdicts"] if entry["role"] == role]
        if found := [verdict for verdict in verdicts if verdict]:
            lines.append(
                f"{name}: {len(found)} of {len(verdicts)} seeds {'is' if len(found) == 1 else 'are'} {found[0]}."
            )
    return lines


def main(*, check: bool) -> None:
    """Fill the markers of every document, or check that they are filled."""
    stale = []
    for file, markers in DOCUMENTS.items():
        path = ROOT / file
        before = after = path.read_text(encoding="utf-8")
        for marker in markers:
            result = json.loads((RESULTS / f"{SOURCES[marker]}.json").read_text(encoding="utf-8"))
            pattern = rf"(<!-- {marker}:begin -->\n).*?(<!-- {marker}:end -->)"
            content = table(result)
            after = re.sub(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", after, flags=re.DOTALL)
        if before != after:
            stale.append(file)
            if not check:
                path.write_text(after, encoding="utf-8")
    if check and stale:
        sys.exit(f"not up to date: {', '.join(stale)}\n  what to do: python benchmarks/tables.py")


if __name__ == "__main__":
    main(check="--check" in sys.argv[1:])
