"""Write the committed results into the documents, between their markers, so that no number is typed by hand.

python benchmarks/tables.py            rewrite README.md and docs/benchmarks.md
python benchmarks/tables.py --check    fail if they don't show what benchmarks/results/ holds
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = {
    "README.md": ("results",),
    "docs/benchmarks.md": ("results", "reference", "speed"),
    "docs/lora.md": ("lora",),
    "docs/transfer.md": ("students",),
}
NAMES = {"teacher": "Teacher", "distilled": "Distilled student", "baseline": "Baseline student"}


SPEED = {
    "finetune_speed": "tuning, tokens/s",
    "time_to_quality": "tuning, time until the MCC is reached",
    "distill_speed": "distilling, time",
    "label_speed": "labelling, tokens/s",
    "student_speed": "training the student, sentences/s",
    "memory": "tuning, peak memory (less is better)",
}
PEERS = {
    "vs_plain": "the plain way",
    "vs_grouped": "length-grouped Trainer + PEFT",
    "vs_every_step": "the teacher run at every step",
}
OURS = "ours"


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


def speed() -> str:
    """Lay out the results of the speed benchmarks, as far as they are there."""
    results = {name: result for name in (*SPEED, "limit") if (result := _load(name)) is not None}
    rows = [
        f"| {SPEED[name]} | {PEERS[peer]} | {_spread(ratio)} |"
        for name, result in results.items()
        for peer, ratio in result.get("ratios", {}).items()
    ]
    rows += [
        f"| {work}, operations/s | the matrix products' rate | {_spread(fraction)} |"
        for work, fraction in results.get("limit", {}).get("fraction", {}).items()
    ]
    lines = ["| what | against | ratio (median) | min | max |", "| --- | --- | --: | --: | --: |", *rows, ""]
    for name, result in results.items():
        lines += [*_by_size(name, result), _note(result), ""]
        if (RESULTS / f"{name}.png").is_file():
            lines += [f"![{name}](../benchmarks/results/{name}.png)", ""]
    if (stream := _load("label_stream")) is not None:
        memory = ", ".join(f"{run['peak_mib']:,.0f} MiB for {run['lines']:,}" for run in stream["runs"])
        lines += [f"Peak memory of labelling a file, by its lines: {memory}. {_note(stream)}", ""]
    return "\n".join(lines).rstrip("\n") if results else "No result is committed yet."


def _load(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _spread(ratio: dict[str, float]) -> str:
    return " | ".join(f"{ratio[key]:.2f}" for key in ("median", "min", "max"))


def _by_size(name: str, result: dict[str, Any]) -> Iterator[str]:
    """Show the speed over the number of sentences, where several were measured."""
    speeds: dict[int, dict[str, list[float]]] = {}
    for run in result["runs"]:
        if "tokens_per_second" in run:
            speeds.setdefault(run["sentences"], {}).setdefault(run["name"], []).append(run["tokens_per_second"])
    if len(speeds) < 2:
        return
    names = [name for name in ("plain", "grouped", OURS) if any(name in of_size for of_size in speeds.values())]
    yield from (f"Tokens per second, `{name}`:", "", f"| sentences | {' | '.join(names)} |")
    yield f"| --: |{' --: |' * len(names)}"
    for size, found in sorted(speeds.items()):
        cells = [f"{statistics.median(found[name]):,.0f}" if name in found else "" for name in names]
        yield f"| {size:,} | {' | '.join(cells)} |"
    yield ""


def _note(result: dict[str, Any]) -> str:
    """Tell how a result was made, and what else it found."""
    environment = result["environment"]
    line = f"`{result['command']}` on {environment['processor']}, {environment['cores']} cores."
    if "max_loss_difference" in result:
        line += (
            f" Losses of {result['compared_steps']} steps on equal batches differ by "
            f"{result['max_loss_difference']:.1e} at most."
        )
    late = [run for run in result["runs"] if run["name"] != OURS and not run.get("reached", True)]
    if late:
        line += f" {len(late)} runs did not get there and count with the time that they ran."
    return line


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


def lora() -> str:
    """Lay out the table of LoRA's variants, if it is there."""
    if (result := _load("lora")) is None:
        return "No result is committed yet."
    rows = [
        f"| {row['name']} | {row['mcc']['mean']:.3f} ± {row['mcc']['std']:.3f} | "
        f"{row['loss']['mean']:.3f} ± {row['loss']['std']:.3f} | {row['trainable_parameters']:,} | "
        f"{row['seconds']:,.0f} | {row['peak_mb']:,.0f} |"
        for row in result["rows"]
    ]
    seeds = len(result["rows"][0]["mcc"]["seeds"])
    return "\n".join(
        [
            "| setting | MCC | loss | trained parameters | processor seconds | peak memory, MiB |",
            "| --- | --: | --: | --: | --: | --: |",
            *rows,
            "",
            f"{result['sentences']:,} of CoLA's training sentences, {result['epochs']} epoch, {seeds} seeds (they draw "
            f"sentences, split and weights); MCC and loss on {result['selection']:,} other training sentences, mean ± "
            "sample standard deviation; time and memory of a process with one thread.",
            _note(result),
        ]
    )


def students() -> str:
    """Lay out what each step gives a student, if it is there."""
    if (result := _load("student_quality")) is None:
        return "No result is committed yet."
    rows = [
        f"| {row['name']} | {row['mcc']['mean']:.3f} ± {row['mcc']['std']:.3f} | {row['parameters'] / 1e6:.2f}M | "
        f"{row['transfer_sentences']:,} | {_difference(row)} |"
        for row in result["rows"]
    ]
    seeds = len(result["rows"][0]["mcc"]["seeds"])
    teachers = ", ".join(f"{score:.3f}" for score in result["teachers"]["mcc"].values())
    return "\n".join(
        [
            "| student | MCC | parameters | transfer sentences | against labels alone |",
            "| --- | --: | --: | --: | --- |",
            *rows,
            "",
            f"CoLA's in-domain development split, {seeds} seeds, mean ± sample standard deviation; paired t-test over "
            f"seeds. The teachers' MCC there: {teachers}; of their mean probability, which taught: "
            f"{result['teachers']['average']:.3f}.",
            _note(result),
        ]
    )


def _difference(row: dict[str, Any]) -> str:
    if (test := row.get("paired_test")) is None:
        return "–"
    p_value = test["p_value"]
    return f"{test['difference']:+.3f}" + ("" if p_value is None else f", p = {p_value:.2g}")


CONTENTS: dict[str, Callable[[], str]] = {
    "results": lambda: table(_load("cola") or {}),
    "reference": lambda: table(_load("reference") or {}),
    "speed": speed,
    "lora": lora,
    "students": students,
}
"""What stands between the markers of a name."""


def main(*, check: bool) -> None:
    """Fill the markers of every document, or check that they are filled."""
    stale = []
    for file, markers in DOCUMENTS.items():
        path = ROOT / file
        before = after = path.read_text(encoding="utf-8")
        for marker in markers:
            pattern = rf"(<!-- {marker}:begin -->\n).*?(<!-- {marker}:end -->)"
            content = CONTENTS[marker]()
            after = re.sub(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", after, flags=re.DOTALL)
        if before != after:
            stale.append(file)
            if not check:
                path.write_text(after, encoding="utf-8")
    if check and stale:
        sys.exit(f"not up to date: {', '.join(stale)}\n  what to do: python benchmarks/tables.py")


if __name__ == "__main__":
    main(check="--check" in sys.argv[1:])
