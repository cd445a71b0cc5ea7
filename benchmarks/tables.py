"""Write the committed results and all settings into the documents, between their markers: nothing is typed by hand.

python benchmarks/tables.py            rewrite README.md and docs/
python benchmarks/tables.py --check    fail if they don't show what benchmarks/results/ and the configuration hold
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from potstill.cli import potstill
from potstill.cli.settings import Setting, all_settings
from potstill.report.tables import ROLE_NAMES, probability

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = {
    "README.md": ("results", "intents", "inference-plot"),
    "docs/benchmarks.md": ("results", "intents", "reference", "speed"),
    "docs/lora.md": ("lora",),
    "docs/reliability.md": ("torture",),
    "docs/production.md": ("inference", "load", "stream"),
    "docs/method.md": ("epochs", "thresholds"),
    "docs/transfer.md": ("students", "judges", "vanilla"),
    "docs/settings.md": ("settings",),
}

SPEED = {
    "finetune_speed": "tuning with `--compile`, tokens/s",
    "time_to_quality": "tuning, time until the MCC is reached",
    "distill_speed": "distilling, time",
    "label_speed": "labelling, tokens/s",
    "student_speed": "training the student, sentences/s",
    "side_by_side": "training several students, time",
    "memory": "tuning, peak memory (less is better)",
}
LIMITS = ("limit", "limit_xeon")
"""One benchmark on two processors: one whose products are slow, and one whose are fast."""
FRACTIONS = {"fraction": "operations/s", "fraction_with_shared": "the same with what texts share"}
PEERS = {
    "vs_plain": "the plain way",
    "vs_grouped": "length-grouped Trainer + PEFT",
    "vs_in_turn": "one after the other",
    "vs_every_step": "the teacher run at every step",
    "vs_eager": "Potstill without `--compile`",
}
OURS = "ours"
_SHOWN = 6
"""Operations of a profile that are told; the others have a fiftieth of the time each, or less."""
CONTESTANTS = {
    OURS: "**exported student**",
    f"{OURS}_int8": "**exported student, 8 bits**",
    "teacher": "its teacher, torch",
    "minilm": "MiniLM-L6, onnxruntime",
    "minilm_int8": "MiniLM-L6, onnxruntime, 8 bits",
    "tfidf": "TF-IDF, logistic regression",
    "fasttext": "fastText",
    "static": "static embeddings (model2vec)",
}


def table(result: dict[str, Any], *others: str) -> str:
    """Lay out one result as Markdown, with what it was computed on and how; `others` are rows to compare it with."""
    config, data, environment = result["config"], result["data"], result["environment"]
    teacher = f"{ROLE_NAMES['teacher']}, `{config['teacher']['backbone']}`"
    rows = [
        "| model | parameters | trainable | accuracy | MCC | seeds |",
        "| --- | --: | --: | --: | --: | --: |",
        *(_row(teacher if role == "teacher" else name, result[role]) for role, name in ROLE_NAMES.items()),
        _row(f'always "{data["majority_label"]}"', result["majority"]),
        *others,
    ]
    difference = result["paired_test"]
    p_value = difference["p_value"]
    notes = [
        f"{data['name']}: {data['train']:,} sentences to train on, {data['selection']:,} to choose epochs, "
        f"{data['evaluation']:,} read once for this table; mean ± sample standard deviation over seeds.",
        f"Distilled against baseline, paired over {difference['seeds']} seeds: MCC {difference['mean_difference']:+.3f}"
        + (f" (t-test, {probability(p_value)})." if p_value is not None else "."),
        *_verdicts(result),
        *_ensemble(result),
        f"`{result['command']}` on {environment['processor']}, {environment['cores']} cores, torch "
        f"{environment['torch']}.",
    ]
    return "\n".join([*rows, "", "\n".join(notes)])


def intents() -> str:
    """Lay out the results on Banking77 beside those of a linear machine."""
    result, linear = _load("banking77"), _load("banking77_svm")
    row = _row(linear["runs"][0]["name"], linear)
    return f"{table(result, row)}\nThe linear machine: {_note(linear)}"


def speed() -> str:
    """Lay out the results of the speed benchmarks, as far as they are there."""
    results = _load_some(*SPEED, *LIMITS)
    limits = [results[name] for name in LIMITS if name in results]
    rows = [
        f"| {SPEED[name]} | {PEERS[peer]} | {_spread(ratio)} |"
        for name, result in results.items()
        for peer, ratio in result.get("ratios", {}).items()
    ]
    tuning = results.get("finetune_speed")
    if tuning is not None:
        by_default = tuning["ratios_without_compile"].items()
        rows[:0] = [f"| tuning, tokens/s | {PEERS[peer]} | {_spread(ratio)} |" for peer, ratio in by_default]
    rows += [
        f"| {work}, {counted} | the matrix products' rate on {_processor(limit)} | {_spread(fraction)} |"
        for limit in limits
        for field, counted in FRACTIONS.items()
        for work, fraction in limit[field].items()
    ]
    lines = ["| what | against | ratio (median) | min | max |", "| --- | --- | --: | --: | --: |", *rows, ""]
    if tuning is not None:
        for limit in limits:
            if _processor(limit) == _processor(tuning):
                lines += [_room(tuning["ratios"], limit), ""]
    for name, result in results.items():
        lines += [*_by_size(name, result), _note(result), ""]
        if (RESULTS / f"{name}.png").is_file():
            lines += [f"![{name}](../benchmarks/results/{name}.png)", ""]
    stream = _load("label_stream")
    memory = ", ".join(f"{run['peak_mib']:,.0f} MiB for {run['lines']:,}" for run in stream["runs"])
    lines.append(f"Peak memory of labelling a file, by its lines: {memory}. {_note(stream)}")
    return "\n".join(lines)


def _processor(result: dict[str, Any]) -> str:
    name: str = result["environment"]["processor"]
    return name


def _room(ratios: dict[str, Any], limit: dict[str, Any]) -> str:
    """Say what a step of tuning spends its time on, and what it would gain without all but the matrix products."""
    shares = ", ".join(f"{share:.0%} `{name}`" for name, share in list(limit["profile"]["tuning"].items())[:_SHOWN])
    reached = limit["fraction"]["tuning, compiled"]["median"]
    slow, fast = 1 / reached, limit["faster_product"]["tuning"]["median"] / reached
    plain, grouped = (ratios[f"vs_{peer}"]["median"] for peer in ("plain", "grouped"))
    return (
        f"Where a step of tuning that is not compiled spends its time: {shares}. Were it nothing but matrix products, "
        f"tuning in float32 would be {plain * slow:.2f} times as fast as plain Trainer + PEFT and {grouped * slow:.2f} "
        f"times as fast as length-grouped at the full rate of `torch.mm`, and {plain * fast:.2f} and "
        f"{grouped * fast:.2f} times at that of oneDNN, which Potstill takes where the processor has AVX-512."
    )


def _load(name: str) -> dict[str, Any]:
    """Read a result; where it is not there, `main` says so."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _load_some(*names: str) -> dict[str, dict[str, Any]]:
    """Read those of the results that are there, by name: one at least."""
    found = {name: _load(name) for name in names if (RESULTS / f"{name}.json").is_file()}
    return found or {names[0]: _load(names[0])}


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
    contestants = ("plain", "grouped", "eager", OURS)
    names = [name for name in contestants if any(name in of_size for of_size in speeds.values())]
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
    if "compile_seconds" in result:
        line += f" Compiling took {result['compile_seconds']:.0f} s, which the rates leave out."
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


def _ensemble(result: dict[str, Any]) -> Iterator[str]:
    """Tell how good the teachers are together, where they taught together and it was measured."""
    if (ensemble := result.get("ensemble")) is not None:
        scores = ensemble["metrics"]
        yield (
            f"The teachers' probabilities averaged, from which the students learnt: accuracy {scores['accuracy']:.2%}, "
            f"MCC {scores['mcc']:.3f}."
        )


def _verdicts(result: dict[str, Any]) -> list[str]:
    """Name the models that learnt nothing, in plain words."""
    lines = []
    for role, name in ROLE_NAMES.items():
        verdicts = [entry["verdict"] for entry in result["verdicts"] if entry["role"] == role]
        if found := [verdict for verdict in verdicts if verdict]:
            lines.append(
                f"{name}: {len(found)} of {len(verdicts)} seeds {'is' if len(found) == 1 else 'are'} {found[0]}."
            )
    return lines


def lora() -> str:
    """Lay out the table of LoRA's variants, if it is there."""
    result = _load("lora")
    rows = [
        f"| {row['name']} | {_mean(row['mcc'])} | {_mean(row['loss'])} | {row['trainable_parameters']:,} | "
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


def students(name: str = "student_quality") -> str:
    """Lay out what each step gives a student, if it is there."""
    result = _load(name)
    rows = [
        f"| {row['name']} | {_mean(row['mcc'])} | {row['parameters'] / 1e6:.2f}M | {row['transfer_sentences']:,} | "
        f"{len(row['mcc']['seeds'])} | {_difference(row.get('paired_test'))} | {_difference(row.get('step_test'))} | "
        f"{_mean(row['elsewhere'])} |"
        for row in result["rows"]
    ]
    teachers, away = result["teachers"], result["teachers"]["elsewhere"]
    return "\n".join(
        [
            "| student | MCC | parameters | sentences judged | seeds | against labels alone | against the one above | "
            "MCC elsewhere |",
            "| --- | --: | --: | --: | --: | --- | --- | --: |",
            *rows,
            "",
            "CoLA's in-domain development split, elsewhere the embedded corpus, of which nobody has learnt; mean ± "
            "sample standard deviation over seeds; paired t-test over the seeds that both have. The teachers' MCC: "
            f"{_scores(teachers['mcc'])}, elsewhere {_scores(away['mcc'])}; that of their mean probability, which "
            f"taught: {teachers['average']:.3f}, elsewhere {away['average']:.3f}.",
            _note(result),
        ]
    )


def judges() -> str:
    """Lay out whether a student learns more from many texts or from many judges, if it is there."""
    result = _load("judges")
    header = ["the transfer set", "MCC", "MCC elsewhere", "divergence from the teachers", "sentences", "judgements"]
    rows = [
        [
            row["name"],
            *(_mean(row[score]) for score in ("mcc", "elsewhere", "selection_kl")),
            *(f"{row[count]:,}" for count in ("transfer_sentences", "judgements")),
        ]
        for row in result["rows"]
    ]
    return "\n".join(
        [
            *_markdown(header, rows),
            "",
            f"MCC of the last against the first {_difference(result['paired_test'])}, paired over "
            f"{len(result['rows'][0]['mcc']['seeds'])} seeds; mean ± sample standard deviation. The divergence is that "
            f"on the selection split, from the mean of {len(result['teachers']['mcc'])} teachers' probabilities.",
            _note(result),
        ]
    )


def thresholds() -> str:
    """Lay out how a threshold is best chosen, if it is there."""
    result = _load("thresholds")
    header = ["students", "number", "more probable class", "best threshold", "expected best", "expected is better for"]
    rows = [
        [
            row["name"],
            str(row["students"]),
            *(_mean(row[way]) for way in ("argmax", "counted", "expected")),
            f"{row['expected_ahead']} of {row['students']}",
        ]
        for row in result["rows"]
    ]
    return "\n".join(
        [
            *_markdown(header, rows),
            "",
            f"MCC on half of CoLA's selection split, where the {result['labels']} labels of the other half chose the "
            "threshold; mean ± sample standard deviation over students. The last column compares the expected best "
            "with the best threshold.",
            _note(result),
        ]
    )


def epochs() -> str:
    """Lay out which epoch is best kept, if it is there."""
    result = _load("epochs")
    header = ["students", "number", "best MCC", "lowest loss", "last epoch", "last is better for"]
    rows = [
        [
            row["name"],
            str(len(row["mcc"]["seeds"])),
            *(f"{_mean(row[way])} (epoch {row[f'{way}_epoch']['mean']:.1f})" for way in ("mcc", "loss", "last")),
            f"{row['last_ahead']} of {len(row['mcc']['seeds'])}",
        ]
        for row in result["rows"]
    ]
    return "\n".join(
        [
            *_markdown(header, rows),
            "",
            "MCC on half of CoLA's selection split, where the other half chose epoch and threshold, in the mean over "
            f"{result['cuts']} cuts; mean ± sample standard deviation over students, and the epoch kept in the mean. "
            "The last is compared with the one of the best MCC; no test is made of it, as all students are measured on "
            "the same labels.",
            _note(result),
        ]
    )


def _mean(spread: dict[str, Any] | None) -> str:
    return "–" if spread is None else f"{spread['mean']:.3f} ± {spread['std']:.3f}"


def _scores(by_name: dict[str, float]) -> str:
    return ", ".join(f"{score:.3f}" for score in by_name.values())


def _difference(test: dict[str, Any] | None) -> str:
    if test is None:
        return "–"
    p_value = test["p_value"]
    return f"{test['difference']:+.3f}" + ("" if p_value is None else f", p = {p_value:.2g}")


def inference() -> str:
    """Lay out speed against quality, if it is there."""
    result = _load("inference")
    header = ["", "MCC", "MB", "load, ms", "sentences/s", "on 2 cores", "one sentence, ms (p50)", "(p99)", "memory, MB"]
    rows = [
        [
            CONTESTANTS[row["name"]],
            f"{row['mcc']:.3f} [{row['mcc_interval'][0]:.3f}, {row['mcc_interval'][1]:.3f}]",
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['load_ms']:,.0f}",
            *(f"{row['sentences_per_s'][threads]:,.0f}" for threads in ("1", "2")),
            *(f"{row[delay]:.3g}" for delay in ("p50_ms", "p99_ms")),
            f"{row['rss_mb']:,.0f}",
        ]
        for row in result["rows"]
    ]
    ratios = [
        f"{CONTESTANTS[name].strip('*')} against {CONTESTANTS[peer.removeprefix('vs_')]}: {_spread(ratio)}".replace(
            " | ", ", "
        )
        for name, peers in result["ratios"].items()
        for peer, ratio in peers.items()
    ]
    return "\n".join(
        [
            *_markdown(header, rows),
            "",
            f"CoLA's in-domain development split, {result['sentences']:,} sentences as strings; [low, high]: 95 % "
            "bootstrap interval; medians over rounds. Speed is on one core where nothing else is said.",
            _note(result),
            "",
            *_targets(result, CONTESTANTS),
            "",
            "Times as many sentences a second, one core (median, least, most over rounds):",
            "",
            *(f"- {ratio}" for ratio in ratios),
        ]
    )


def inference_plot() -> str:
    """Show speed against quality as a plot, if it is there."""
    result = _load("inference")
    return f"![MCC over sentences a second](benchmarks/results/inference.png)\n\n{_note(result)}"


def load() -> str:
    """Lay out what the server did under load, if it is there."""
    result = _load("load")
    header = ["", "clients", "requests/s", "texts/s", "p50, ms", "p99, ms", "by status", "memory, MB"]
    rows = [
        [
            run["name"],
            str(run.get("connections", "")),
            *(
                f"{run[key]:,.0f}" if key in run else ""
                for key in ("requests_per_s", "texts_per_s", "p50_ms", "p99_ms")
            ),
            ", ".join(f"{status}: {count:,}" for status, count in sorted(run.get("by_status", {}).items())),
            f"{run['rss_mb']:,.0f}",
        ]
        for run in result["runs"]
    ]
    size = result["texts_per_request"]
    others = [f", {run['name']}: {n}" for run in result["runs"] if (n := run.get("texts_per_request", size)) != size]
    note = f"{size} texts a request{''.join(others)}; broken, refused: connections that were. {_note(result)}"
    return "\n".join([*_markdown(header, rows), "", note, "", *_targets(result)])


def stream() -> str:
    """Lay out what became of the lines, if it is there."""
    result = _load("predict_stream")
    header = ["", "seconds", "answered before", "memory early, MB", "late, MB"]
    rows = [
        [
            run["name"],
            f"{run['seconds']:,.0f}",
            f"{run['answered_before']:,}",
            *(f"{run[key]:,.0f}" for key in ("rss_mb_early", "rss_mb_late")),
        ]
        for run in result["runs"]
    ]
    return "\n".join([*_markdown(header, rows), "", _note(result), "", *_targets(result)])


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> list[str]:
    """Write a table whose first column holds words, and whose others hold numbers or not."""
    rule = ["---", *["--:" if numbers else "---"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def _targets(result: dict[str, Any], names: dict[str, str] | None = None) -> list[str]:
    """Show what was wanted and what was found; several contestants' with their names."""

    def words(target: dict[str, Any]) -> str:
        return f"{names[target['name']].strip('*')}: {target['what']}" if names else target["what"]

    rows = [
        [words(target), _number(target["wanted"]), _number(target["found"]), "yes" if target["met"] else "**no**"]
        for target in result["targets"]
    ]
    return _markdown(["", "wanted", "found", "met"], rows)


def _number(value: float) -> str:
    """Write four digits of a number, or all of a larger one before its point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"


def torture() -> str:
    """Lay out what was broken on purpose, how often, and what happened; as far as results are there."""
    parts = {
        **{"torture_kills": _kills, "torture_kills_embedded": _kills, "torture_flips": _flips},
        **{"torture_faults": _faults, "torture_fuzz": _fuzz, "torture_soak": _soak},
    }
    found = [(parts[name], result) for name, result in _load_some(*parts).items()]
    rows = [row for lay_out, result in found for row in lay_out(result)]
    header = ["| what was broken | how often | what happened |", "| --- | --: | --- |"]
    commands = ",\n".join(f"`{result['command']}`" for _, result in found)
    return "\n".join([*header, *rows, "", f"{commands}."])


def _kills(result: dict[str, Any]) -> Iterator[str]:
    words = f"{result['identical']:,} end bit for bit as an undisturbed run"
    which = "runs of the embedded model" if "--embedded" in result["command"] else "runs"
    yield f"| {which} killed at random moments, resumed | {result['trials']:,} | {words} |"


def _flips(result: dict[str, Any]) -> Iterator[str]:
    """Put the files of a kind together: the run's own, each role's, the transfer set, each cache."""
    places: dict[str, dict[str, int]] = {}
    for run in result["runs"]:
        top, place, *_ = run["name"].split("/")
        name = f"the cache's {place}" if top == "cache" else _PLACES.get(place, "a run's own files")
        counts = places.setdefault(name, {})
        for outcome in _OUTCOMES:
            counts[outcome] = counts.get(outcome, 0) + run.get(outcome, 0)
    for name, counts in places.items():
        words = "bits, bytes and blocks changed, cut, removed"
        yield f"| {name}: {words} | {sum(counts.values()):,} | {_outcomes(counts)} |"


def _faults(result: dict[str, Any]) -> Iterator[str]:
    for run in result["runs"]:
        yield f"| writing refused: {run['name']} | {run['faults']:,} | {_outcomes(run)} |"


def _outcomes(counts: dict[str, Any]) -> str:
    return ", ".join(f"{counts[name]:,} {words}" for name, words in _OUTCOMES.items() if counts.get(name))


_PLACES = {
    "teacher": "teachers",
    "distilled": "students",
    "baseline": "students",
    "transfer": "transfer sets",
    "plots": "plots",
}
_OUTCOMES = {
    "refused": "refused with one message",
    "rebuilt": "made again",
    "harmless": "with exactly the answers of before",
    "done": "done all the same",
    "unread": "that nothing reads",
    "failed": "**FAILED**",
}
"""What may come of it, in words."""


def _fuzz(result: dict[str, Any]) -> Iterator[str]:
    for run in result["runs"]:
        found = len(run["findings"])
        words = f"{found} findings" if found else "errors of ours or none"
        words = "**FAILED**" if "error" in run else words
        yield f"| parser fuzzed for {run['seconds']:,} s: {run['name']} | {run['executions'] or 0:,} | {words} |"


def _soak(result: dict[str, Any]) -> Iterator[str]:
    for run in result["runs"]:
        grown = ", ".join(f"{_GROWTH[name]} {run[name]['growth']:+.1f}" for name in _GROWTH)
        often = f"{run['answers']:,} answers" if "answers" in run else f"{run['looks']:,} runs"
        yield f"| {run['name']} | {often} | growth over the second half: {grown} |"


_GROWTH = {"rss_mb": "memory, MiB", "files": "open files", "threads": "threads", "temporary": "temporary files"}


def settings() -> str:
    """List every setting by section, from the configuration itself; sections of one kind share a table."""
    sections: dict[str, list[Setting]] = {}
    for setting in all_settings():
        sections.setdefault(".".join(setting.path[:-1]), []).append(setting)
    alike: dict[tuple[str, ...], list[str]] = {}  # sections by the names of their settings
    for section, found in sections.items():
        alike.setdefault(tuple(setting.path[-1] for setting in found), []).append(section)
    flags = _flags()
    lines = []
    for names in alike.values():
        defaults = ["default"] if len(names) == 1 else [f"in `{name}`" for name in names]
        rows = []
        for found in zip(*(sections[name] for name in names), strict=True):
            first = found[0]
            flag = f"`--{first.flag(prefixed=False)}`" if first.parameter in flags else ""
            rows.append([f"`{first.path[-1]}`", flag, *map(_default, found), _meaning(first)])
        title = ", ".join(f"`{name}`" for name in names)
        lines += [f"## {title}", ""]
        for name in names:
            if len(names) > 1 and (reason := sections[name][0].section):
                lines += [f"`{name}`: {' '.join(reason.split())}", ""]
        lines += [*_markdown(["setting", "flag", *defaults, "meaning"], rows, numbers=False), ""]
    return "\n".join(lines).rstrip()


def _flags() -> set[str | None]:
    """Return the parameters of all commands."""
    context = click.Context(potstill)
    commands = [potstill.get_command(context, name) for name in potstill.list_commands(context)]
    return {option.name for command in commands if command is not None for option in command.params}


def _default(setting: Setting) -> str:
    space = setting.path == ("search", "space")
    return "[search.md](search.md#what-is-searched)" if space else f"`{setting.shown_default}`"


def _meaning(setting: Setting) -> str:
    """Return a setting's documentation, and its choices."""
    text = setting.meaning.replace("|", r"\|")
    return text + (f" One of {', '.join(f'`{choice}`' for choice in setting.choices)}." if setting.choices else "")


CONTENTS: dict[str, Callable[[], str]] = {
    "results": lambda: table(_load("cola")),
    "intents": intents,
    "reference": lambda: table(_load("reference")),
    "speed": speed,
    "lora": lora,
    "students": students,
    "judges": judges,
    "vanilla": lambda: students("vanilla_rnn"),
    "epochs": epochs,
    "thresholds": thresholds,
    "torture": torture,
    "inference": inference,
    "inference-plot": inference_plot,
    "load": load,
    "stream": stream,
    "settings": settings,
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
            try:
                content = CONTENTS[marker]()
            except FileNotFoundError:
                content = "No result is committed yet."
            after = re.sub(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", after, flags=re.DOTALL)
        if before != after:
            stale.append(file)
            if not check:
                path.write_text(after, encoding="utf-8")
    if check and stale:
        sys.exit(f"not up to date: {', '.join(stale)}\n  what to do: python benchmarks/tables.py")


if __name__ == "__main__":
    main(check="--check" in sys.argv[1:])
