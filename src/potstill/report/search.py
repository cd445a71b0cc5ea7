"""The report of a search: every trial in `trials.csv`, the best ones and what they are worth in `search.md`."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from potstill.report.tables import EMPTY, MARKDOWN, Cell, ResultTable, duration, magnitude, score
from potstill.store.atomic import write_csv, write_text

TRIALS_FILE: Final = "trials.csv"
REPORT_FILE: Final = "search.md"
BEST_FILE: Final = "best.yaml"

_SHOWN: Final = 10
"""Trials in the report's table; `trials.csv` has them all."""

Outcome = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, by dotted name, values that the space fixes included, and what came of them.

    Attributes:
        number: From 1, in the order in which the trials ended.
        outcome: `finished`; `stopped` early, being worse than the others; or `failed`, since its loss was no longer
            finite or the settings exclude each other.
        mcc: MCC on the validation split; None unless it finished.
        parameters: Size of the student; None where it was not built.
        note: What happened, where it did not finish.
    """

    number: int
    outcome: Outcome
    settings: dict[str, Any]
    mcc: float | None
    parameters: int | None
    epochs: int
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class SearchResult:
    """All trials of a search, in their order, none that were interrupted, and what was searched.

    `validation` counts the texts on which trials are compared, `unlabelled` those of the unlabelled set (0: there was
    none). `space` is as the configuration says it; `command` is the command line that resumes the search.
    """

    data: str
    validation: int
    unlabelled: int
    space: dict[str, Any]
    trials: tuple[Trial, ...]
    command: str

    @property
    def best(self) -> Trial | None:
        """The finished trial with the highest MCC; None where none finished."""
        return next(iter(best_first(self.trials)), None)


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Return the finished trials, the highest MCC first; equal ones in their order."""
    return sorted((trial for trial in trials if trial.mcc is not None), key=lambda trial: -(trial.mcc or 0.0))


def write_search(result: SearchResult, directory: Path) -> None:
    """Write `trials.csv` and, where a trial finished, `search.md`."""
    names = sorted({name for trial in result.trials for name in trial.settings})
    fields = ("outcome", "mcc", "parameters", "epochs", "seconds")
    rows: list[list[Any]] = [["trial", *fields, *names, "note"]]
    for one in result.trials:
        known = vars(one) | {"seconds": round(one.seconds, 1)}
        rows.append([one.number, *map(known.get, fields), *map(one.settings.get, names), one.note])
    write_csv(directory / TRIALS_FILE, rows)
    if result.best is not None:
        write_text(directory / REPORT_FILE, search_text(result, result.best, directory / BEST_FILE))


def settings_words(settings: Mapping[str, Any]) -> str:
    """Write settings in a line, by the last part of their names where that is clear."""
    return ", ".join(f"{head} {_shown(settings[name])}" for name, head in _heads(settings).items())


def search_text(result: SearchResult, best: Trial, file: Path) -> str:
    """Write the report of a search, in Markdown; `file` is the configuration with the settings of its best trial."""
    rows = (
        (Cell(f"`{name}`"), Cell(_shown(value)), Cell(_range(result.space.get(name))))
        for name, value in best.settings.items()
    )
    return MARKDOWN.get_template("report/search.md.jinja").render(
        result=result,
        best=best,
        outcomes=Counter(trial.outcome for trial in result.trials),
        settings=ResultTable(("setting", "best", "searched"), tuple(rows)).to_markdown(),
        trials=_trials(result).to_markdown(),
        file=file,
        config=shlex.quote(str(file)),
    )


def _trials(result: SearchResult) -> ResultTable:
    names = [name for name in result.trials[0].settings if len({str(one.settings[name]) for one in result.trials}) > 1]
    rows = tuple(
        (
            Cell(str(trial.number)),
            Cell(score(trial.mcc or 0.0)),
            EMPTY if trial.parameters is None else Cell(magnitude(trial.parameters)),
            *(Cell(_shown(trial.settings[name])) for name in names),
            Cell(duration(trial.seconds)),
        )
        for trial in best_first(result.trials)[:_SHOWN]
    )
    return ResultTable(("trial", "MCC", "parameters", *_heads(names).values(), "time"), rows)


def _heads(names: Collection[str]) -> dict[str, str]:
    """Return the last part of each dotted name, or all of it where several end alike."""
    counts = Counter(name.rpartition(".")[2] for name in names)
    return {name: leaf if counts[leaf := name.rpartition(".")[2]] == 1 else name for name in names}


def _shown(value: Any) -> str:
    """Write a value as YAML would, a number to three digits."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)


def _range(candidates: Any) -> str:
    if not isinstance(candidates, Mapping):
        return "fixed"
    if "choices" in candidates:
        return ", ".join(map(_shown, candidates["choices"]))
    how = ", by order of magnitude" if candidates.get("log") else ""
    if "step" in candidates:
        how = f" in steps of {_shown(candidates['step'])}"
    return f"{_shown(candidates['low'])} to {_shown(candidates['high'])}{how}"
