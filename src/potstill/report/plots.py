"""The plots of a run: three per trained model, one that compares the models, one of how far they can be believed.

Figures are built without pyplot: no global state, no window, and safe in any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import IO, Any, Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from potstill.evaluation import LinearResult, ModelResult, Role, Summary
from potstill.evaluation.calibration import BINS, pool
from potstill.evaluation.results import Headline
from potstill.report.tables import HEADLINES, LINEAR_NAME, ROLE_NAMES, Scored, magnitude, percent, score
from potstill.store.atomic import write_atomically

# Okabe and Ito's palette stays apart in every common kind of colour blindness, the markers in shades of grey.
COLOURS: Final = {
    "teacher": "#0072B2",
    "distilled": "#D55E00",
    "ngram": "#996515",
    "baseline": "#009E73",
    "linear": "#AA4E86",
}
MARKERS: Final = {"teacher": "o", "distilled": "s", "ngram": "v", "baseline": "^", "linear": "D"}
REFERENCE: Final = "#555555"
COMPARISON_FILE: Final = "comparison.png"
RELIABILITY_FILE: Final = "reliability.png"

_LEGEND: Final[dict[str, Any]] = {"frameon": False, "fontsize": 8}
_DASHED: Final[dict[str, Any]] = {"linestyle": "--", "linewidth": 1.2, "color": REFERENCE}
_PARTS: Final = {
    "train_ce": ("cross-entropy to the labels", "--"),
    "train_kl": ("KL to the teacher", ":"),
    "train_mse": ("squared distance to the teacher's logits", ":"),
    "train_hard": ("cross-entropy to the teacher's answers", ":"),
}
"""What a distilled student's loss is made of: the labels' part and one of the others."""

Line = tuple[Sequence[float], Sequence[float]]


def curve_files(summary: Summary, role: Role) -> dict[str, str]:
    """Name the plots of one role's training by what they show; none where nothing was trained."""
    scores = f"{HEADLINES[summary.data.headline]} and MCC"
    names = {"training loss": "training_loss", "validation loss": "validation_loss", scores: "accuracy"}
    trained = any(model.history for model in summary.of(role))
    return {title: f"{role}_{name}.png" for title, name in names.items()} if trained else {}


def draw_plots(summary: Summary, directory: Path) -> list[Path]:
    """Draw all plots of a run into `directory`, which is made where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = {COMPARISON_FILE: comparison(summary), RELIABILITY_FILE: reliability(summary)}
    for role in summary.roles:
        if files := curve_files(summary, role):
            models = [model for model in summary.of(role) if model.history]
            scores = accuracy(models, summary.data.validation_majority_accuracy, summary.data.headline)
            drawn = (loss_curves(models, "training"), loss_curves(models, "validation"), scores)
            figures |= dict(zip(files.values(), drawn, strict=True))
    for name, figure in figures.items():
        write_atomically(directory / name, partial(write_png, figure))
    return [directory / name for name in figures]


def write_png(figure: Figure, file: IO[bytes]) -> None:
    """Draw a figure once; `savefig` draws it twice to find the layout."""
    figure.set_dpi(160)
    FigureCanvasAgg(figure).print_png(file)  # type: ignore[no-untyped-call]


def loss_curves(models: Sequence[ModelResult], split: Literal["training", "validation"]) -> Figure:
    """Draw the loss on a split, in training with the terms of a distilled student's, else with the epochs kept."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    is_training = split == "training"
    _curves(axes, models, "train_loss" if is_training else "validation_loss", kept=not is_training)
    parts = [key for key in _PARTS if is_training and _curve(models[0], key)]
    for key in parts if len(parts) > 1 else ():
        name, style = _PARTS[key]
        axes.plot(*_mean([_curve(model, key) for model in models]), style, color=REFERENCE, marker=".", label=name)
    _finish(axes, f"{ROLE_NAMES[models[0].role]}: {split} loss", f"loss on the {split} split")
    figure.legend(loc="outside lower center", ncols=2, **_LEGEND)
    return figure


def accuracy(models: Sequence[ModelResult], majority_accuracy: float, headline: Headline = "accuracy") -> Figure:
    """Draw the accuracy of one role's models and, since it alone hides one that learnt nothing, MCC beside it.

    `majority_accuracy` is the share of the most frequent class in the validation split. Another `headline` than
    accuracy is drawn without it.
    """
    reached = 100 * majority_accuracy if headline == "accuracy" else None
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for axes, key, title, scale, reference in (
        (left, headline, f"{HEADLINES[headline]} (%)", 100.0, reached),
        (right, "mcc", "MCC", 1.0, 0.0),
    ):
        _curves(axes, models, key, scale, kept=True)
        if reference is not None:
            axes.axhline(reference, **_DASHED, label="always the majority class")
        _finish(axes, f"{ROLE_NAMES[models[0].role]}: {title}", f"{title} on the validation split")
    # Without room above 0 the noise of a model that learnt nothing would fill the panel and look like progress.
    low, high = right.get_ylim()
    right.set_ylim(min(low, -0.02), max(high, 0.1))
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, **_LEGEND)
    return figure


def comparison(summary: Summary) -> Figure:
    """Draw the models below each other: MCC, accuracy and size."""
    rows: dict[str, tuple[str, Sequence[ModelResult | LinearResult]]] = {
        ROLE_NAMES[role]: (role, summary.of(role)) for role in summary.roles
    }
    if summary.linear is not None:
        rows[LINEAR_NAME] = ("linear", (summary.linear,))
    headline = summary.data.headline
    majority = 100 * getattr(summary.data.majority, headline)
    figure = Figure(figsize=(11.0, 1.6 + 0.8 * len(rows)), layout="constrained")
    mcc, accuracy_axes, size = figure.subplots(1, 3, sharey=True)
    for row, (role, models) in enumerate(rows.values()):
        _score_row(mcc, row, role, models, "mcc", 1.0)
        _score_row(accuracy_axes, row, role, models, headline, 100.0)
        total = models[0].parameters
        trainable = total if isinstance(models[0], LinearResult) else models[0].trainable_parameters
        if total:
            _point(size, row, role, total, magnitude(total))
        if 0 < trainable < total:
            size.plot([trainable, total], [row, row], color=COLOURS[role], linewidth=1, alpha=0.5, zorder=1)
            _point(size, row, role, trainable, magnitude(trainable), markerfacecolor="white")
    for axes, title, reference in (
        (mcc, "MCC (0: learnt nothing, 1: perfect)", 0.0),
        (accuracy_axes, f"{HEADLINES[headline]} (%)", majority),
        (size, "parameters (hollow: trainable)", None),
    ):
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.2)
        if reference is not None:
            axes.axvline(reference, **_DASHED, zorder=1)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        _tidy(axes, "x")
    if any(model.parameters for model in summary.models):
        size.set_xscale("log")
    mcc.set_yticks(range(len(rows)), list(rows))
    mcc.set_ylim(len(rows) - 0.3, -0.6)  # the first model on top
    caption = f'Dashed: always "{summary.data.majority_label}". Bars: 95 % interval of a single seed.'
    if any(len(models) > 1 for _, models in rows.values()):
        caption += " Small points: one seed each, their mean above."
    # Names come from the user: a dollar sign in one is no formula.
    title = f"{summary.data.name}: test split, {summary.data.test} examples"
    figure.suptitle(title, fontsize=12, parse_math=False)
    figure.supxlabel(caption, fontsize=8, color=REFERENCE, parse_math=False)
    return figure


def reliability(summary: Summary) -> Figure:
    """Draw a reliability diagram per role (Guo et al. 2017, figure 1), and below it where its texts are."""
    roles = summary.roles
    figure = Figure(figsize=(0.6 + 3.4 * len(roles), 4.6), layout="constrained")
    grid = figure.subplots(2, len(roles), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for role, (axes, below) in zip(roles, grid.T, strict=True):
        calibrations = [model.calibration for model in summary.of(role)]
        pooled = pool([one.bins for one in calibrations])
        lines: list[Line] = [
            ([100 * item.confidence for item in bins], [100 * item.accuracy for item in bins])
            for bins in (*(one.bins for one in calibrations), pooled)
        ]
        axes.plot([0, 100], [0, 100], **_DASHED, label="as sure as right")
        _lines(axes, role, lines[:-1], lines[-1], "all seeds together" if len(calibrations) > 1 else "this model")
        axes.set_title(f"{ROLE_NAMES[role]}: ECE {percent(fmean(one.ece for one in calibrations))}", fontsize=11)
        axes.legend(loc="lower right", **_LEGEND)
        starts = [100 * item.index / BINS for item in pooled]
        shares = [100 * item.count / sum(other.count for other in pooled) for item in pooled]
        below.bar(starts, shares, width=100 / BINS, align="edge", color=COLOURS[role], edgecolor="white")
        _tidy(axes)
        _tidy(below)
    left, below = grid[:, 0]
    left.set_ylabel("right answers (%)")
    below.set_ylabel("texts (%)")
    # No text is less certain than if all classes were equally probable, unless each has a probability of its own.
    least = 0.0 if summary.data.multi_label else 100 / len(summary.data.label_names)
    left.set(xlim=(least - 2, 102), ylim=(-2, 102))
    which = "each" if summary.data.multi_label else "the most probable"
    figure.supxlabel(f"probability of {which} class (%)", fontsize=10)
    figure.suptitle(f"Can the probabilities be believed? Test split, {summary.data.test} examples", fontsize=12)
    return figure


def _curve(model: ModelResult, key: str, scale: float = 1.0) -> dict[int, float]:
    """Return one value per epoch, leaving out epochs that don't have it."""
    return {int(record["epoch"]): scale * record[key] for record in model.history if record.get(key) is not None}


def _mean(curves: Sequence[dict[int, float]]) -> Line:
    """Average over the epochs that every seed reached: beyond them the mean would jump where a seed stops early."""
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return epochs, [fmean(curve[epoch] for curve in curves) for epoch in epochs]


def _lines(axes: Axes, role: Role, seeds: Sequence[Line], together: Line, label: str) -> None:
    """Draw a thick line and, where there are several seeds, a thin one for each."""
    for position, line in enumerate(seeds if len(seeds) > 1 else ()):
        text = None if position else f"single seeds ({len(seeds)})"
        axes.plot(*line, color=COLOURS[role], alpha=0.35, linewidth=1, marker=".", label=text)
    axes.plot(*together, color=COLOURS[role], lw=2, marker=MARKERS[role], ms=5, label=label)


def _curves(axes: Axes, models: Sequence[ModelResult], key: str, scale: float = 1.0, *, kept: bool) -> None:
    """Draw a value over the epochs; with `kept`, ring the epochs kept."""
    curves = [_curve(model, key, scale) for model in models]
    label = "mean of the seeds" if len(curves) > 1 else f"seed {models[0].seed}"
    _lines(axes, models[0].role, [(list(one), list(one.values())) for one in curves], _mean(curves), label)
    if kept:
        epochs = [model.best_epoch for model in models]
        values = [curve.get(epoch, np.nan) for epoch, curve in zip(epochs, curves, strict=True)]
        axes.scatter(epochs, values, s=90, facecolors="none", edgecolors="black", zorder=4, label="epoch kept")


def _finish(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = axes.dataLim.intervalx
    axes.set_xlim(low - 0.3, high + 0.3)
    axes.margins(y=0.12)
    _tidy(axes)


def _tidy(axes: Axes, grid: Literal["x", "both"] = "both") -> None:
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _score_row(axes: Axes, row: int, role: str, models: Sequence[Scored], name: str, scale: float) -> None:
    values = [scale * float(getattr(model.metrics, name)) for model in models]
    if len(models) > 1:
        below = [row + 0.2] * len(values)  # where the mean doesn't cover them
        axes.scatter(values, below, s=26, color=COLOURS[role], alpha=0.45, linewidths=0, zorder=2)
    else:
        ends = [scale * end for end in models[0].intervals[name]]
        axes.plot(ends, [row, row], color=COLOURS[role], linewidth=2, zorder=2)
    mean = fmean(values)
    _point(axes, row, role, mean, score(mean) if name == "mcc" else percent(mean / scale))


def _point(axes: Axes, row: int, role: str, x: float, text: str, **look: Any) -> None:
    axes.plot(x, row, marker=MARKERS[role], markersize=9, color=COLOURS[role], zorder=3, **look)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
    place: dict[str, Any] = {"xytext": (0, 10), "textcoords": "offset points", "ha": "center"}
    axes.annotate(text, (x, row), fontsize=9, color=COLOURS[role], bbox=box, **place)
