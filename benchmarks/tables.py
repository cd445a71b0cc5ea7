"""Write the committed results and all settings into the documents, between their markers: nothing is typed by hand.

python benchmarks/tables.py            rewrite README.md and docs/
python benchmarks/tables.py --check    fail if they don't show what benchmarks/results/ and the configuration hold
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from potstill.cli import potstill
from potstill.cli.settings import Setting, all_settings
from potstill.report.tables import ROLE_NAMES, probability

Result = dict[str, Any]
Row = Mapping[str, Any]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLOT = "benchmarks/results/inference.png"
DOCUMENTS = {
    "README.md": ("tasks", "inference-plot"),
    "docs/benchmarks.md": ("tasks", "results", "intents", "reference", "speed"),
    "docs/reliability.md": ("abuse", "stress"),
    "docs/predict.md": ("abstention",),
    "docs/production.md": ("web", "inference", "load", "stream"),
    "docs/augment.md": ("students", "vanilla"),
    "docs/settings.md": ("settings",),
}
"""The markers in each document."""


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> list[str]:
    """Lay out a table; all columns but the first are aligned to the right if they hold numbers."""
    rule = ["---", *["--:" if numbers else "---"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def grid(header: str, cells: str, rows: Iterable[Row]) -> list[str]:
    """Lay out a table; `cells` are format strings over the fields of a row, and what a row has not is a dash."""

    def cell(template: str, row: Row) -> str:
        try:
            return template.format_map(dict(row))
        except (KeyError, TypeError):
            return "–"

    templates = cells.split(" | ")
    return markdown(header.split(" | "), ([cell(template, row) for template in templates] for row in rows))


def load(name: str) -> Result:
    """Read a result; where it is missing, `main` says so in the document."""
    result: Result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def note(result: Result) -> str:
    """Return the command that made a result, and the machine."""
    environment = result["environment"]
    return f"`{result['command']}` on {environment['processor']}, {environment['cores']} cores."


def shown(result: Result, header: str, cells: str, rows: Iterable[Row], words: str = "") -> str:
    """Show rows as `grid` does, words about them, the command, and what was wanted and found, where there is that."""
    lines = [*grid(header, cells, rows), "", *filter(None, [words]), note(result)]
    return "\n".join([*lines, "", *targets(result)] if "targets" in result else lines)


def targets(result: Result) -> list[str]:
    """Show what was wanted and what was found."""

    def number(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"

    rows = (
        [target["what"], number(target["wanted"]), number(target["found"]), "yes" if target["met"] else "**no**"]
        for target in result["targets"]
    )
    return markdown(["", "wanted", "found", "met"], rows)


def experiment(name: str, *others: Row) -> str:
    """Show the result of `experiment.py NAME`; `others` are further models to compare with."""
    result = load(name)
    data, test, environment = result["data"], result["paired_test"], result["environment"]
    names = ROLE_NAMES | {"teacher": f"{ROLE_NAMES['teacher']}, `{result['config']['teacher']['backbone']}`"}
    rows = [{"name": title} | result[role] for role, title in names.items() if role in result]
    rows += [{"name": f'always "{data["majority_label"]}"'} | result["majority"], *others]
    p_value = "" if test["p_value"] is None else f" (t-test, {probability(test['p_value'])})"
    notes = [
        f"{data['name']}: {data['train']:,} training, {data['validation']:,} validation and {data['test']:,} test "
        "sentences; mean ± sample standard deviation over seeds.",
        f"Distilled against baseline, paired over {test['seeds']} seeds: MCC {test['mean_difference']:+.3f}{p_value}.",
        *_verdicts(result),
        *_ensemble(result),
        f"{note(result)[:-1]}, torch {environment['torch']}.",
    ]
    header = ["model", "parameters", "trainable", "accuracy", "MCC", "seeds"]
    return "\n".join([*markdown(header, map(_scores, rows)), "", *notes])


def _scores(row: Row) -> list[str]:
    """Write the scores of one model; a single seed has no spread."""
    accuracy, mcc = row["accuracy"], row["mcc"]
    counts = [row[key] for key in ("parameters", "trainable_parameters")]
    cells = [f"{accuracy['mean']:.2%}", f"{mcc['mean']:.3f}"]
    if (seeds := len(mcc["seeds"])) > 1:
        cells = [f"{cells[0]} ± {100 * accuracy['std']:.2f}", f"{cells[1]} ± {mcc['std']:.3f}"]
    return [row["name"], *(f"{count / 1e6:.2f}M" if count else "0" for count in counts), *cells, str(seeds)]


def _ensemble(result: Result) -> Iterator[str]:
    """Say how good the mean of the teachers is, where they taught together."""
    if (ensemble := result.get("ensemble")) is not None:
        scores = ensemble["metrics"]
        yield (
            f"The teachers' probabilities averaged, from which the students learnt: accuracy {scores['accuracy']:.2%}, "
            f"MCC {scores['mcc']:.3f}."
        )


def _verdicts(result: Result) -> Iterator[str]:
    """Name the models that are no better than always answering the same."""
    for role, name in ROLE_NAMES.items():
        verdicts = [entry["verdict"] for entry in result["verdicts"] if entry["role"] == role]
        if found := [verdict for verdict in verdicts if verdict]:
            yield f"{name}: {len(found)} of {len(verdicts)} seeds {'is' if len(found) == 1 else 'are'} {found[0]}."


TASK_ROWS = ("linear SVM", "fastText", "teacher", "**student**", "ngram", "baseline")


def tasks() -> str:
    """Show each task's accuracies, and the mean size and speed of each model."""
    result = load("tasks")
    for task in result["tasks"]:
        used = next(row for row in task["rows"] if row["name"] == task.get("student", "distilled"))
        task["rows"].append(used | {"name": "**student**"})
    known = {row["name"] for task in result["tasks"] for row in task["rows"]}
    names = [name for name in TASK_ROWS if name in known]

    def score(accuracy: Row) -> str:
        spread = f" ± {100 * accuracy['std']:.1f}" if len(accuracy["seeds"]) > 1 else ""
        return f"{100 * accuracy['mean']:.1f}{spread}"

    rows: list[list[str]] = []
    for task in result["tasks"]:
        cells = {row["name"]: score(row["accuracy"]) for row in task["rows"]}
        title = f"{task['name']} ({task['train']:,}, {task['classes']})"
        rows.append([title, *(cells.get(name, "–") for name in names)])
    found = {name: [row for task in result["tasks"] for row in task["rows"] if row["name"] == name] for name in names}
    for title, field, pattern in (("size, MB", "bytes", "{:,.1f}"), ("texts a second", "texts_per_s", "{:,.0f}")):
        unit = 1e6 if field == "bytes" else 1
        rows.append([title, *(_range([pattern.format(row[field] / unit) for row in found[name]]) for name in names)])
    closed, ahead, test = (result[key] for key in ("gap_closed", "ahead_of_linear_svm", "distilled_against_baseline"))
    notes = [
        "Test accuracy in percent, of students mean ± standard deviation over 3 seeds; in parentheses the numbers of "
        "labelled texts and of classes. Baseline: the same network, trained without the teacher. fastText was tuned "
        "for accuracy, not for size. Speeds were measured on a busy machine.",
        f"On average the student is {100 * ahead['mean']:.1f} points better than the linear SVM and closes "
        f"{100 * closed['mean']:.0f} % of the gap between it and the teacher. It is "
        f"{100 * test['mean_difference']:.1f} points better than its baseline ({probability(test['p_value'])}, paired "
        "over the tasks).",
        note(result),
    ]
    return "\n".join([*markdown(["task", *names], rows), "", *notes])


def _range(values: Sequence[str]) -> str:
    """Write the smallest and the largest of some numbers."""
    ordered = sorted(values, key=lambda value: float(value.replace(",", "")))
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]}–{ordered[-1]}"


def intents() -> str:
    """Show the result on Banking77 beside that of a linear SVM."""
    linear = load("banking77_svm")
    table = experiment("banking77", {"name": linear["runs"][0]["name"]} | linear)
    return f"{table}\nThe linear SVM is that of every run's report."


def rows_of(name: str, header: str, cells: str, words: str) -> str:
    """Show the rows of a result as a table; `words` below it is a format string over the result."""
    result = load(name)
    rows = [row | {"seeds": len(row["mcc"]["seeds"])} if "mcc" in row else row for row in result["rows"]]
    return shown(result, header, cells, rows, words.format_map(result))


STUDENTS = (
    "student | MCC | parameters | sentences labelled | seeds | against labels alone | against the one above | "
    "out-of-domain MCC",
    "{name} | {mcc[mean]:.3f} ± {mcc[std]:.3f} | {parameters:,} | {unlabelled_sentences:,} | {seeds} | "
    "{paired_test[difference]:+.3f}, p = {paired_test[p_value]:.2g} | "
    "{step_test[difference]:+.3f}, p = {step_test[p_value]:.2g} | "
    "{out_of_domain[mean]:.3f} ± {out_of_domain[std]:.3f}",
    "MCC on CoLA's in-domain development split; out-of-domain MCC on the builtin corpus, which no model has learnt "
    "from; mean ± sample standard deviation over seeds; paired t-test over the seeds that both rows have. The mean of "
    "the teachers' probabilities, from which the students learn, has an MCC of {teachers[average]:.3f}, out of domain "
    "{teachers[out_of_domain][average]:.3f}.",
)

SPEED = {
    "finetune_speed": "tuning, tokens/s",
    "label_speed": "labelling, tokens/s",
    "student_speed": "training the student, sentences/s",
}
PEERS = {"vs_plain": "the plain way", "vs_grouped": "length-grouped Trainer + PEFT"}


def speed() -> str:
    """Show the results of the speed benchmarks."""
    results = {name: load(name) for name in SPEED}
    rows = [
        [SPEED[name], PEERS[peer], *(f"{ratio[key]:.2f}" for key in ("median", "min", "max"))]
        for name, result in results.items()
        for peer, ratio in result["ratios"].items()
    ]
    tuning = results["finetune_speed"]
    words = (
        f"In `finetune_speed`, the losses of {tuning['compared_steps']} steps on equal batches differ by "
        f"{tuning['max_loss_difference']:.1e} at most."
    )
    header = ["what", "against", "ratio (median)", "min", "max"]
    return "\n".join([*markdown(header, rows), "", *(f"- {note(result)}" for result in results.values()), "", words])


CLASSIFIERS = {
    "ours": "**exported student**",
    "ours_int8": "**exported student, 8 bits**",
    "teacher": "its teacher, torch",
    "minilm": "MiniLM-L6, onnxruntime",
    "minilm_int8": "MiniLM-L6, onnxruntime, 8 bits",
    "tfidf": "TF-IDF, logistic regression",
    "fasttext": "fastText",
}


def inference() -> str:
    """Show speed against quality."""
    result = load("inference")
    header = " | MCC | MB | load, ms | sentences/s | one sentence, ms (p50) | (p99) | memory, MB"
    cells = (
        "{title} | {mcc:.3f} [{mcc_interval[0]:.3f}, {mcc_interval[1]:.3f}] | {mb:.1f} | {load_ms:,.0f} | "
        "{sentences_per_s:,.0f} | {p50_ms:.3g} | {p99_ms:.3g} | {rss_mb:,.0f}"
    )
    rows = [row | {"title": CLASSIFIERS[row["name"]], "mb": row["bytes"] / 1e6} for row in result["rows"]]
    words = (
        f"CoLA's in-domain development split, {result['sentences']:,} sentences as strings; [low, high]: 95 % "
        "bootstrap interval; medians over rounds. Speed is on one core."
    )
    return shown(result, header, cells, rows, words)


def load_test() -> str:
    """Show what the server did under load."""
    result = load("load")
    header = " | clients | texts/request | requests/s | texts/s | p50, ms | p99, ms | by status | memory, MB"
    cells = (
        "{name} | {connections} | {texts_per_request} | {requests_per_s:,.0f} | {texts_per_s:,.0f} | {p50_ms:,.0f} | "
        "{p99_ms:,.0f} | {statuses} | {rss_mb:,.0f}"
    )

    def statuses(run: Row) -> str:
        return ", ".join(f"{status}: {count:,}" for status, count in sorted(run.get("by_status", {}).items())) or "–"

    rows = [run | {"statuses": statuses(run)} for run in result["runs"]]
    return shown(result, header, cells, rows, "broken, refused: number of broken and refused connections.")


def abstention() -> str:
    """Show what students leave without an answer."""
    result = load("abstention")
    header = "task, seed | wrong | answered with a max_error of 5 % | of these wrong | answered with 90 % coverage | "
    header += "of these wrong | of no class, left open | labels a set | right one missing"
    cells = "{task}, {seed} | {error:.1%} | {max_error[coverage]:.1%} | {max_error[error]:.1%} | "
    cells += "{coverage[coverage]:.1%} | {coverage[error]:.1%} | {outside_without_answer:.1%} | {sets[labels]:.2f} | "
    cells += "{sets[missing]:.1%}"
    return shown(
        result,
        header,
        cells,
        result["runs"],
        "Shares of test texts; sets with a set error of 10 %. 0.0%: the validation split can promise no such error.",
    )


def stream() -> str:
    """Show what became of a million lines."""
    result = load("predict_stream")
    header = " | seconds | answered before | memory early, MB | late, MB"
    cells = "{name} | {seconds:,.0f} | {answered_before:,} | {rss_mb_early:,.0f} | {rss_mb_late:,.0f}"
    return shown(result, header, cells, result["runs"])


def web() -> str:
    """Show how students answer in Node and in browsers."""
    result = load("web")
    header = " | until it can answer, ms | texts/s, one by one | at once | other labels | Δ"
    cells = "{engine} | {load_ms:,.0f} | {texts_per_s[one]:,.0f} | {texts_per_s[batch]:,.0f} | {label_mismatches} | "
    rows, name = result["rows"], result["rows"][0]["student"]
    kinds = len({row["student"] for row in rows} - {name})
    words = f"`{name}`, {result['texts']:,} texts. Δ: largest difference of a probability from Python's. Students of "
    words += (
        f"{kinds} kinds with random weights were compared too; the last rows below are of all.{result.get('note', '')}"
    )
    return shown(result, header, cells + "{max_difference:.1e}", (row for row in rows if row["student"] == name), words)


_OUTCOMES = {
    "refused": "refused with one message",
    "rebuilt": "computed again",
    "harmless": "with unchanged answers",
    "done": "completed nevertheless",
    "unread": "not read by anything",
    "failed": "**FAILED**",
}
_PLACES = {
    **{"teacher": "teachers", "distilled": "students", "baseline": "students"},
    **{"unlabelled": "unlabelled sets", "plots": "plots"},
}


def stress() -> str:
    """Show what was broken on purpose, how often, and what happened."""
    parts = {"kills": _kills, "flips": _flips, "faults": _faults, "fuzz": _fuzz}
    results = {name: load(f"stress_{name}") for name in parts}
    rows = [f"| {' | '.join(row)} |" for name, result in results.items() for row in parts[name](result)]
    header = ["| what was broken | how often | what happened |", "| --- | --: | --- |"]
    return "\n".join([*header, *rows, "", ",\n".join(f"`{result['command']}`" for result in results.values()) + "."])


def abuse() -> str:
    """Show what a client waits, and what memory the server takes, beside an abusive client of each kind."""
    result = load("stress_abuse")
    rows = [run | {"growth": run["rss_mb"] / run["rss_mb_before"]} for run in result["runs"]]
    header = "abuse | p99 of another client, s | slowest, s | failed | memory before, MB | most, MB | growth"
    cells = "{name} | {p99_s:.3f} | {slowest_s:.3f} | {failed} of {requests:,} | {rss_mb_before:,.0f} | {rss_mb:,.0f}"
    return shown(result, header, f"{cells} | {{growth:.2f}}", rows)


def _outcomes(counts: Row) -> str:
    return ", ".join(f"{counts[name]:,} {words}" for name, words in _OUTCOMES.items() if counts.get(name))


def _kills(result: Result) -> Iterator[Sequence[str]]:
    words = f"{result['identical']:,} with bit for bit the result of an uninterrupted run"
    yield "runs killed at random moments, resumed", f"{result['trials']:,}", words


def _flips(result: Result) -> Iterator[Sequence[str]]:
    places: dict[str, dict[str, int]] = {}
    for run in result["runs"]:
        top, place, *_ = run["name"].split("/")
        counts = places.setdefault(f"the cache's {place}" if top == "cache" else _PLACES.get(place, "a run's own"), {})
        for outcome in _OUTCOMES:
            counts[outcome] = counts.get(outcome, 0) + run.get(outcome, 0)
    for name, counts in places.items():
        yield f"damaged files: {name}", f"{sum(counts.values()):,}", _outcomes(counts)


def _faults(result: Result) -> Iterator[Sequence[str]]:
    for run in result["runs"]:
        yield f"writing refused: {run['name']}", f"{run['faults']:,}", _outcomes(run)


def _fuzz(result: Result) -> Iterator[Sequence[str]]:
    runs = result["runs"]
    failed = [run["name"] for run in runs if run["findings"] or "error" in run]
    words = f"**FAILED**: {', '.join(failed)}" if failed else "accepted, or refused with one message"
    what = f"{len(runs)} parsers fuzzed for {runs[0]['seconds']:,} s each"
    yield what, f"{sum(run['executions'] or 0 for run in runs):,}", words


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
            flag = f"`--{first.flag}`" if first.parameter in flags else ""
            rows.append([f"`{first.path[-1]}`", flag, *map(_default, found), _meaning(first)])
        title = ", ".join(f"`{name}`" for name in names)
        lines += [f"## {title}", ""]
        for name in names:
            if len(names) > 1 and (reason := sections[name][0].section):
                lines += [f"`{name}`: {' '.join(reason.split())}", ""]
        lines += [*markdown(["setting", "flag", *defaults, "meaning"], rows, numbers=False), ""]
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
    choices = get_args(setting.field.annotation) if get_origin(setting.field.annotation) is Literal else ()
    return text + (f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else "")


CONTENTS: dict[str, Callable[[], str]] = {
    "results": lambda: experiment("cola"),
    "intents": intents,
    "tasks": tasks,
    "reference": lambda: experiment("reference"),
    "speed": speed,
    "students": lambda: rows_of("student_quality", *STUDENTS),
    "vanilla": lambda: rows_of("vanilla_rnn", *STUDENTS),
    "abuse": abuse,
    "stress": stress,
    "inference": inference,
    "inference-plot": lambda: f"![MCC over sentences a second]({PLOT})\n\n{note(load('inference'))}",
    "load": load_test,
    "stream": stream,
    "abstention": abstention,
    "web": web,
    "settings": settings,
}
"""What is written between the markers of a name."""


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a document is not up to date")
    main(check=parser.parse_args().check)
