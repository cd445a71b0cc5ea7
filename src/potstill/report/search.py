"""What a search found out, for people: `search.md`, a map of alpha and temperature, and the trials as a table."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from potstill.evaluation.trials import ALPHA, REFERENCE, TEMPERATURE, Rematch, SearchResult, Trial
from potstill.files import write_csv, write_text
from potstill.report import plots
from potstill.report.tables import EMPTY, Cell, ResultTable, duration, interval, magnitude, score
from potstill.wording import in_markdown

RESULT_FILE: Final = "search.json"
TRIALS_FILE: Final = "trials.csv"
MAP_FILE: Final = "alpha-temperature.png"
REPORT_FILE: Final = "search.md"
BEST_FILE: Final = "best.yaml"

_COLOURS: Final = "cividis"
"""Even to the eye, in every common kind of colour blindness and in shades of grey."""
_BANDWIDTH: Final = 0.12
"""Width of the window in which the map's background averages, as a share of the map: of forty trials some are in it."""
_REACH: Final = 2.0
"""Bandwidths from the nearest trial to which the background goes."""
_Z: Final = 1.96
"""Standard deviations that 95 % of normal values are within."""
_SHOWN: Final = 10
"""Trials in the report's table; `trials.csv` has them all."""

Values = NDArray[np.float64]
Point = tuple[float, float]
"""Alpha and temperature."""
Place = Callable[[Point], Point | None]
"""Where a point stands on the map's axes, if it does."""

_REFERENCE_POINT: Final[Point] = (REFERENCE[ALPHA], REFERENCE[TEMPERATURE])
_REFERENCE: Final = "alpha {:g}, T {:g}".format(*_REFERENCE_POINT)


def write_search(result: SearchResult, directory: Path) -> None:
    """Write `search.json`, `trials.csv` and, where a trial finished, the map and `search.md`."""
    # The numbers first: whatever happens while drawing, they are kept.
    write_text(directory / RESULT_FILE, result.to_json())
    _write_table(result, directory / TRIALS_FILE)
    if result.best is not None:
        figure = heat_map(result)
        plots.save_figure(figure, directory / MAP_FILE)
        write_text(directory / REPORT_FILE, search_text(result, result.best, directory))


def settings_words(settings: Mapping[str, Any]) -> str:
    """Write settings in a line, by the last part of their names where that is clear."""
    leaves = Counter(map(_leaf, settings))
    shown = {name if leaves[_leaf(name)] > 1 else _leaf(name): _shown(value) for name, value in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def heat_map(result: SearchResult) -> Figure:
    """Draw the MCC over alpha and temperature: the grid's cells, or the trials over their local mean.

    At least one trial has finished.
    """
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.subplots()
    values = [trial.mcc for trial in result.finished if trial.mcc is not None]
    scale = Normalize(min(values), max(values))
    place = _draw_cells(axes, result, scale) if result.grid else _draw_trials(axes, result, scale)
    marks = [(_REFERENCE_POINT, "D", "#D55E00", _REFERENCE)]
    if result.best is not None:
        marks.append((result.best.point, "o", "black", "best"))
    look: dict[str, Any] = {"ms": 36 if result.grid else 17, "mfc": "none", "mew": 2, "linestyle": "none"}
    look["path_effects"] = [withStroke(linewidth=4, foreground="white")]  # visible on any colour
    for point, marker, colour, label in marks:
        if (at := place(point)) is not None:
            axes.plot(*at, marker, mec=colour, label=label, clip_on=False, **look)
    figure.colorbar(ScalarMappable(scale, _COLOURS), ax=axes, label="MCC on the selection split")
    axes.set_xlabel("alpha, the weight of the labels")
    axes.set_ylabel("temperature T")
    figure.legend(loc="outside lower center", ncols=4, markerscale=10 / look["ms"], **plots.LEGEND)
    held = "all else equal" if result.grid else "shade: mean of the trials near by, in which other settings differ too"
    # Names come from the user: a dollar sign in one is no formula.
    figure.suptitle(f"{result.data}: {len(result.trials)} trials; {held}", fontsize=10, parse_math=False)
    return figure


def _draw_cells(axes: Axes, result: SearchResult, scale: Normalize) -> Place:
    """Draw a grid; cells whose training failed stay empty."""
    alphas, temperatures = (np.unique(axis) for axis in zip(*(trial.point for trial in result.trials), strict=True))
    cells = np.full((len(temperatures), len(alphas)), np.nan)  # (temperatures, alphas)
    for trial in result.finished:
        alpha, temperature = trial.point
        cells[np.searchsorted(temperatures, temperature), np.searchsorted(alphas, alpha)] = trial.mcc
    axes.imshow(cells, origin="lower", cmap=_COLOURS, norm=scale, aspect="auto")
    middle = (np.nanmin(cells) + np.nanmax(cells)) / 2
    for (row, column), value in np.ndenumerate(cells):
        if np.isfinite(value):
            colour = "black" if value > middle else "white"
            axes.text(column, row, score(value), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set_yticks(range(len(temperatures)), [f"{temperature:g}" for temperature in temperatures])

    def place(point: Point) -> Point | None:
        """Return the cell, or the place between cells; None outside."""
        x = np.interp(point[0], alphas, range(len(alphas)), np.nan, np.nan)
        y = np.interp(np.log(point[1]), np.log(temperatures), range(len(temperatures)), np.nan, np.nan)
        return (float(x), float(y)) if np.isfinite(x + y) else None

    return place


def _draw_trials(axes: Axes, result: SearchResult, scale: Normalize) -> Place:
    """Draw the trials as points, those that did not finish as crosses, and the mean around every place as a shade."""
    points = np.array([(*trial.point, np.nan if trial.mcc is None else trial.mcc) for trial in result.trials])
    alphas, temperatures, values = points.T  # each (trials,)
    finished = np.isfinite(values)
    left, right = _ends(alphas, result.space[ALPHA], REFERENCE[ALPHA], np.asarray)
    bottom, top = _ends(temperatures, result.space[TEMPERATURE], REFERENCE[TEMPERATURE], np.log2)
    x, y = np.linspace(left, right, 150), np.linspace(bottom, top, 150)
    # Nadaraya and Watson's estimate: a mean in which near trials weigh more. Far from all of them nothing is known.
    across = (x[:, None] - alphas[finished]) / (right - left)  # (columns, finished trials)
    along = (y[:, None] - np.log2(temperatures[finished])) / (top - bottom)  # (rows, finished trials)
    distances = (across[None, :, :] ** 2 + along[:, None, :] ** 2) / _BANDWIDTH**2  # (rows, columns, finished trials)
    weights = np.exp(-distances / 2)
    means = (weights * values[finished]).sum(axis=2) / weights.sum(axis=2)  # (rows, columns)
    shade = np.where(distances.min(axis=2) < _REACH**2, means, np.nan)
    axes.pcolormesh(x, np.exp2(y), shade, cmap=_COLOURS, norm=scale, rasterized=True)
    x, y, colours = alphas[finished], temperatures[finished], values[finished]
    axes.scatter(x, y, 42, colours, cmap=_COLOURS, norm=scale, edgecolors="white", label="trial")
    if not finished.all():
        crosses = alphas[~finished], temperatures[~finished]
        axes.scatter(*crosses, s=24, marker="x", color=plots.REFERENCE, label="not finished")
    axes.set_yscale("log", base=2)
    ticks = [2.0**power for power in range(int(np.ceil(bottom)), int(np.floor(top)) + 1)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    return lambda point: point


def _ends(values: Values, space: Any, reference: float, scaled: Callable[[Values], Values]) -> tuple[float, float]:
    """Return where an axis ends, as scaled: around all trials, all that is searched, and the reference."""
    searched = [space[end] for end in ("low", "high") if isinstance(space, Mapping) and end in space]
    points = scaled(np.array([*values, *searched, reference], dtype=np.float64))
    margin = 0.04 * float(np.ptp(points)) or 0.04
    return float(points.min()) - margin, float(points.max()) + margin


def search_text(result: SearchResult, best: Trial, directory: Path) -> str:
    """Write the report.

    Args:
        result: The search.
        best: Its best trial.
        directory: Where it lies.
    """
    sections = {
        "What was done": _what_was_done(result),
        "The best settings": _best(result, best),
        f"Are {_REFERENCE} a good choice?": _choice(result, best),
        "The map": f"![MCC over alpha and temperature]({MAP_FILE})",
        "The best trials": _table(result),
        "How to go on": _how_to_go_on(result, directory / BEST_FILE),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# Settings searched: {in_markdown(result.data)}\n\n{body}\n"


def _what_was_done(result: SearchResult) -> str:
    outcomes = Counter(trial.outcome for trial in result.trials)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    seeds = max(len(trial.seeds) for trial in result.finished)
    students = "one student" if seeds == 1 else f"{seeds} students of different seeds"
    way = (
        "a grid of alpha and temperature, all else as configured"
        if result.grid
        else "drawn by Optuna's TPE, at first at random"
    )
    more = f" and {result.transfer:,} texts of a transfer set" if result.transfer else ""
    return (
        f"Trials: {len(result.trials)} ({counts}; {way}), {students} each, distilled on the training texts"
        f"{more}, and judged by the MCC on the {result.selection:,} texts of the selection split at the epoch that is "
        "kept.\n\n"
        f"The evaluation split was not looked at: `potstill run` or `evaluate` has to say what the settings are worth."
    )


def _best(result: SearchResult, best: Trial) -> str:
    rows = tuple(
        (Cell(f"`{name}`"), Cell(_shown(value)), Cell(_space_words(result.space.get(name))))
        for name, value in best.settings.items()
    )
    size = "" if best.parameters is None else f" with {magnitude(best.parameters)} parameters"
    table = ResultTable(("setting", "best", "searched"), rows).to_markdown()
    return f"Trial {best.number}: MCC {score(best.mcc or 0.0)}{size}. `{BEST_FILE}` holds all settings.\n\n{table}"


def _choice(result: SearchResult, best: Trial) -> str:
    """Say whether the reference's alpha and T are a good choice, and how far chance reaches."""
    alpha, temperature = best.point
    found = f"alpha {_shown(alpha)}, T {_shown(temperature)}"
    there = None if result.at_reference is None else result.at_reference.mcc
    lines = [_verdict(result.rematch, best_there=there is not None and there == best.mcc, found=found)]
    if result.grid and there is not None:
        top = best.mcc or 0.0
        lines.append(
            f"In the grid the best cell ({found}) has MCC {score(top)}, the cell {_REFERENCE} {score(there)}; "
            f"difference {score(top - there)}. The best of {len(result.finished)} cells is in part the luckiest."
        )
    spread = result.seed_spread
    if spread is None:
        lines.append("How far seeds alone move the MCC is not known: nothing was trained with two seeds.")
    else:
        seeds = max(len(trial.seeds) for trial in result.finished)
        apart = _Z * spread * float(np.sqrt(2 / seeds))
        lines.append(
            f"Seeds alone move the MCC: with equal settings its standard deviation is {score(spread)}. Two trials that "
            f"are less than {score(apart)} apart may be equally good."
        )
    return "\n\n".join(lines)


def _verdict(rematch: Rematch | None, *, best_there: bool, found: str) -> str:
    """Judge by the seeds on which nothing was chosen."""
    if best_there:
        return "**Yes:** no trial did better than the one that has them."
    if rematch is None or rematch.interval is None:
        return (
            "**That can't be said:** two or more seeds are needed that no trial had. In a new search, let "
            "`student.seeds` list at least two more than `search.seeds_per_trial`."
        )
    low, high = rematch.interval
    ours, theirs = (score(float(np.mean(values))) for values in (rematch.best, rematch.reference))
    numbers = (
        f"Trained anew with {len(rematch.seeds)} seeds that no trial had, all else equal, {found} reaches MCC {ours} "
        f"and {_REFERENCE} {theirs}; difference {score(rematch.difference)}, 95 % interval "
        f"{interval(rematch.interval, score)} (Student's t over the seeds)."
    )
    if low > 0:
        return f"**There is a better one:** {found}. {numbers}"
    if high < 0:
        return f"**Yes:** they do better than the best trial's {found}, which was lucky. {numbers}"
    return (
        f"**Nothing better is shown**, as far as {len(rematch.seeds)} seeds can tell: {found} may be chance. "
        f"{numbers} The interval holds 0: chance explains the difference well enough, and one of up to {score(high)} "
        f"would not have been seen."
    )


def _table(result: SearchResult) -> str:
    """Show the best trials, with the settings that differ between trials."""
    names = [name for name in result.trials[0].settings if len({str(one.settings[name]) for one in result.trials}) > 1]
    leaves = Counter(map(_leaf, names))
    heads = [_leaf(name) if leaves[_leaf(name)] == 1 else name for name in names]
    ranked = sorted(result.finished, key=lambda trial: -(trial.mcc or 0.0))[:_SHOWN]
    rows = tuple(
        (
            Cell(str(trial.number)),
            Cell(score(trial.mcc or 0.0)),
            EMPTY if trial.parameters is None else Cell(magnitude(trial.parameters)),
            *(Cell(_shown(trial.settings[name])) for name in names),
            Cell(duration(trial.seconds)),
        )
        for trial in ranked
    )
    return ResultTable(("trial", "MCC", "parameters", *heads, "time"), rows).to_markdown()


def _how_to_go_on(result: SearchResult, best: Path) -> str:
    more = "" if result.grid else " A larger `--trials` makes more trials."
    transfer = " --transfer PATH" if result.transfer else ""
    config = shlex.quote(str(best))
    return (
        f"`potstill distill --config {config} --teacher DIR{transfer}` trains students with the best settings, by "
        f"the teacher that judged here. `potstill run --config {config}` makes the whole experiment with them, with "
        "new teachers and another transfer set, as its sections `teacher` and `transfer` say. The same search command "
        f"goes on where it was interrupted.{more}\n\n```bash\n{result.command}\n```"
    )


def _write_table(result: SearchResult, path: Path) -> None:
    """Write a line per trial: what came of it, and a column per setting."""
    names = sorted({name for trial in result.trials for name in trial.settings})
    seeds = sorted({seed for trial in result.trials for seed in trial.seeds})
    head = ["trial", "outcome", "mcc", *(f"mcc seed {seed}" for seed in seeds), "parameters", "epochs", "seconds"]
    rows: list[list[Any]] = [[*head, *names, "note"]]
    for one in result.trials:
        scores = [one.mcc, *(one.seeds.get(seed) for seed in seeds)]
        values = [one.settings.get(name) for name in names]
        row = [one.number, one.outcome, *scores, one.parameters, one.epochs, round(one.seconds, 1)]
        rows.append([*row, *values, one.note])
    write_csv(path, rows)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _shown(value: Any) -> str:
    """Write a value as YAML would, a number to three digits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)


def _space_words(said: Any) -> str:
    """Say what was searched, from what the configuration says."""
    if not isinstance(said, Mapping):
        return "fixed"
    if "choices" in said:
        return ", ".join(map(_shown, said["choices"]))
    how = (
        ", by order of magnitude"
        if said.get("log")
        else f" in steps of {_shown(said['step'])}"
        if "step" in said
        else ""
    )
    return f"{_shown(said['low'])} to {_shown(said['high'])}{how}"
