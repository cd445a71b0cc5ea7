"""The plots of a run: three per trained model, one that compares the models, one of how far they can be believed.

Figures are built without pyplot: no global state, no window, and safe in any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from potstill.evaluation import Calibration, ModelResult, Role, Summary
from potstill.evaluation.calibration import BINS, ReliabilityBin, pool
from potstill.report.tables import ROLE_NAMES, magnitude, percent, score
from potstill.store.atomic import write_atomically

# Okabe and Ito's palette stays apart in every common kind of colour blindness, the markers in shades of grey.
COLOURS: Final[dict[Role, str]] = {"teacher": "#0072B2", "distilled": "#D55E00", "baseline": "#009E73"}
MARKERS: Final[dict[Role, str]] = {"teacher": "o", "distilled": "s", "baseline": "^"}
REFERENCE: Final = "#555555"
DPI: Final = 160
LEGEND: Final[dict[str, Any]] = {"frameon": False, "fontsize": 8}
COMPARISON_FILE: Final = "comparison.png"
RELIABILITY_FILE: Final = "reliability.png"

_GRID: Final[dict[str, Any]] = {"color": "#DDDDDD", "linewidth": 0.6}
_DASHED: Final[dict[str, Any]] = {"linestyle": "--", "linewidth": 1.2, "color": REFERENCE}
_SEED: Final[dict[str, Any]] = {"alpha": 0.35, "linewidth": 1}
_PARTS: Final = {
    "train_ce": ("cross-entropy to the labels", "--"),
    "train_kl": ("KL to the teacher", ":"),
    "train_mse": ("squared distance to the teacher's logits", ":"),
    "train_hard": ("cross-entropy to the teacher's answers", ":"),
}
"""What a distilled student's loss is made of: the labels' part and one of the others."""


def curve_files(summary: Summary, role: Role) -> dict[str, str]:
    """Name the plots of one role's training by what they show; none where nothing was trained."""
    if not any(model.history for model in summary.of(role)):
        return {}
    names = {"training loss": "training_loss", "validation loss": "validation_loss", "accuracy and MCC": "accuracy"}
    return {title: f"{role}_{name}.png" for title, name in names.items()}


def draw_plots(summary: Summary, directory: Path) -> list[Path]:
    """Draw all plots of a run into `directory`, which is made where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = {COMPARISON_FILE: comparison(summary), RELIABILITY_FILE: reliability(summary)}
    for role in summary.roles:
        if files := curve_files(summary, role):
            models = [model for model in summary.of(role) if model.history]
            majority = summary.data.validation_majority_accuracy
            drawn = (training_loss(models), validation_loss(models), accuracy(models, majority))
            figures |= dict(zip(files.values(), drawn, strict=True))
    for name, figure in figures.items():
        save_figure(figure, directory / name)
    return [directory / name for name in figures]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))


def training_loss(models: Sequence[ModelResult]) -> Figure:
    """Draw what training minimises and, for a distilled student, the two terms that it is made of."""
    return _loss(models, "training", _PARTS)


def validation_loss(models: Sequence[ModelResult]) -> Figure:
    """Draw the loss on the validation split, with the epochs that were kept."""
    return _loss(models, "validation", {})


def _loss(models: Sequence[ModelResult], split: str, terms: Mapping[str, tuple[str, str]]) -> Figure:
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    _curves(axes, models, "train_loss" if terms else "validation_loss", kept=not terms)
    parts = [key for key in terms if _curve(models[0], key)]
    for key in parts if len(parts) > 1 else ():
        name, style = terms[key]
        axes.plot(
            *_mean_curve([_curve(model, key) for model in models]), style, color=REFERENCE, marker=".", label=name
        )
    _finish(axes, f"{ROLE_NAMES[models[0].role]}: {split} loss", f"loss on the {split} split")
    figure.legend(loc="outside lower center", ncols=2, **LEGEND)
    return figure


def accuracy(models: Sequence[ModelResult], majority_accuracy: float) -> Figure:
    """Draw accuracy and, since accuracy alone hides a model that learnt nothing, MCC beside it.

    Args:
        models: The models of one role.
        majority_accuracy: Share of the most frequent class in the validation split.
    """
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    panels = (
        (left, "accuracy", "accuracy", "accuracy on the validation split (%)", 100.0, 100 * majority_accuracy),
        (right, "mcc", "MCC", "MCC on the validation split", 1.0, 0.0),
    )
    for axes, key, title, label, scale, reference in panels:
        _curves(axes, models, key, scale, kept=True)
        axes.axhline(reference, **_DASHED, label="always the majority class")
        _finish(axes, f"{ROLE_NAMES[models[0].role]}: {title}", label)
    # Without room above 0 the noise of a model that learnt nothing would fill the panel and look like progress.
    low, high = right.get_ylim()
    right.set_ylim(min(low, -0.02), max(high, 0.1))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, **LEGEND)
    return figure


def comparison(summary: Summary) -> Figure:
    """Draw the models below each other: MCC, accuracy and size."""
    roles = summary.roles
    figure = Figure(figsize=(11.0, 1.6 + 0.8 * len(roles)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    mcc, accuracy_axes, size = panels
    for row, role in enumerate(roles):
        models = summary.of(role)
        _score_row(mcc, row, models, "mcc", 1.0)
        _score_row(accuracy_axes, row, models, "accuracy", 100.0)
        _size_row(size, row, models[0])
    for axes, reference in ((mcc, 0.0), (accuracy_axes, 100 * summary.data.majority.accuracy)):
        axes.axvline(reference, **_DASHED, zorder=1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    mcc.set_title("MCC (0: learnt nothing, 1: perfect)", fontsize=10)
    accuracy_axes.set_title("accuracy (%)", fontsize=10)
    size.set_title("parameters (hollow: trainable)", fontsize=10)
    if any(model.parameters for model in summary.models):
        size.set_xscale("log")
    for axes in panels:
        axes.margins(x=0.2)
        axes.grid(axis="x", **_GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    mcc.set_yticks(range(len(roles)), [ROLE_NAMES[role] for role in roles])
    mcc.set_ylim(len(roles) - 0.3, -0.6)  # the first model on top
    caption = f'Dashed: always "{summary.data.majority_label}". Bars: 95 % interval of a single seed.'
    if any(len(summary.of(role)) > 1 for role in roles):
        caption += " Small points: one seed each, their mean above."
    title = f"{summary.data.name}: test split, {summary.data.test} examples"
    # Names come from the user: a dollar sign in one is no formula.
    figure.suptitle(title, fontsize=12, parse_math=False)
    figure.supxlabel(caption, fontsize=8, color=REFERENCE, parse_math=False)
    return figure


def reliability(summary: Summary) -> Figure:
    """Draw a reliability diagram per role (Guo et al. 2017, figure 1), and below it where its texts are."""
    roles = summary.roles
    figure = Figure(figsize=(0.6 + 3.4 * len(roles), 4.6), layout="constrained")
    grid = figure.subplots(2, len(roles), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for role, (axes, texts) in zip(roles, grid.T, strict=True):
        _diagram(axes, texts, role, [model.calibration for model in summary.of(role)])
    left, below = grid[:, 0]
    left.set_ylabel("right answers (%)")
    below.set_ylabel("texts (%)")
    # No text is less certain than if all classes were equally probable.
    left.set_xlim(100 / len(summary.data.label_names) - 2, 102)
    left.set_ylim(-2, 102)
    figure.supxlabel("probability of the most probable class (%)", fontsize=10)
    figure.suptitle(f"Can the probabilities be believed? Test split, {summary.data.test} examples", fontsize=12)
    return figure


def _diagram(axes: Axes, below: Axes, role: Role, calibrations: Sequence[Calibration]) -> None:
    """Draw accuracy over confidence, per seed and for all together, and below it the share of texts in each bin."""

    def points(bins: Iterable[ReliabilityBin]) -> list[list[float]]:
        return [[100 * item.confidence for item in bins], [100 * item.accuracy for item in bins]]

    axes.plot([0, 100], [0, 100], **_DASHED, label="as sure as right")
    diagrams = [calibration.bins for calibration in calibrations]
    for position, bins in enumerate(diagrams if len(diagrams) > 1 else ()):
        label = f"single seeds ({len(diagrams)})" if position == 0 else None
        axes.plot(*points(bins), color=COLOURS[role], **_SEED, label=label)
    pooled = pool(diagrams)
    label = "all seeds together" if len(diagrams) > 1 else "this model"
    axes.plot(*points(pooled), color=COLOURS[role], lw=1.8, marker=MARKERS[role], ms=4, label=label)
    axes.set_title(f"{ROLE_NAMES[role]}: ECE {percent(fmean(one.ece for one in calibrations))}", fontsize=11)
    axes.legend(loc="lower right", **LEGEND)
    starts = [100 * item.index / BINS for item in pooled]
    shares = [100 * item.count / sum(other.count for other in pooled) for item in pooled]
    below.bar(starts, shares, width=100 / BINS, align="edge", color=COLOURS[role], edgecolor="white")
    _tidy(axes)
    _tidy(below)


def _tidy(axes: Axes) -> None:
    axes.grid(**_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _curve(model: ModelResult, key: str) -> dict[int, float]:
    """Return one value per epoch, leaving out epochs that don't have it."""
    return {int(record["epoch"]): float(record[key]) for record in model.history if record.get(key) is not None}


def _mean_curve(curves: Sequence[dict[int, float]]) -> tuple[list[int], list[float]]:
    """Average over the epochs that every seed reached: beyond them the mean would jump where a seed stops early."""
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return epochs, [fmean(curve[epoch] for curve in curves) for epoch in epochs]


def _curves(axes: Axes, models: Sequence[ModelResult], key: str, scale: float = 1.0, *, kept: bool = False) -> None:
    """Draw a thin line per seed and, of several, a thick one for their mean; with `kept`, ring the epochs kept."""
    role = models[0].role
    curves = [{epoch: scale * value for epoch, value in _curve(model, key).items()} for model in models]
    for position, curve in enumerate(curves if len(curves) > 1 else ()):
        label = f"single seeds ({len(curves)})" if position == 0 else None
        axes.plot(list(curve), list(curve.values()), color=COLOURS[role], **_SEED, marker=".", label=label)
    label = "mean of the seeds" if len(curves) > 1 else f"seed {models[0].seed}"
    axes.plot(*_mean_curve(curves), color=COLOURS[role], lw=2.2, marker=MARKERS[role], ms=5, label=label)
    if kept:
        epochs = [model.best_epoch for model in models]
        values = [curve.get(epoch, np.nan) for epoch, curve in zip(epochs, curves, strict=True)]
        axes.scatter(epochs, values, s=90, facecolors="none", edgecolors="black", zorder=4, label="epoch kept")


def _finish(axes: Axes, title: str, label: str) -> None:
    """Give a curve plot its words, whole epochs on the x axis, and nothing that isn't needed."""
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = axes.dataLim.intervalx
    axes.set_xlim(low - 0.3, high + 0.3)
    axes.margins(y=0.12)
    _tidy(axes)


def _score_row(axes: Axes, row: int, models: Sequence[ModelResult], name: str, scale: float) -> None:
    """Draw one model's score: over its seeds, or of its single seed with the interval."""
    role = models[0].role
    values = [scale * float(getattr(model.metrics, name)) for model in models]
    mean = fmean(values)
    if len(models) > 1:
        below = [row + 0.2] * len(values)  # where the mean doesn't cover them
        axes.scatter(values, below, s=26, color=COLOURS[role], alpha=0.45, linewidths=0, zorder=2)
    else:
        low, high = (scale * end for end in models[0].intervals[name])
        axes.plot([low, high], [row, row], color=COLOURS[role], linewidth=2, zorder=2)
    axes.plot(mean, row, marker=MARKERS[role], markersize=9, color=COLOURS[role], zorder=3)
    _annotate(axes, score(mean) if name == "mcc" else percent(mean / scale), mean, row, COLOURS[role])


def _size_row(axes: Axes, row: int, model: ModelResult) -> None:
    """Draw all parameters, if there are any, and where they are fewer the trainable ones on a shared line."""
    colour, total, trainable = COLOURS[model.role], model.parameters, model.trainable_parameters
    look: dict[str, Any] = {"marker": MARKERS[model.role], "markersize": 9, "color": colour, "zorder": 3}
    if total:
        axes.plot(total, row, **look)
        _annotate(axes, magnitude(total), total, row, colour)
    if 0 < trainable < total:
        axes.plot([trainable, total], [row, row], color=colour, linewidth=1, alpha=0.5, zorder=1)
        axes.plot(trainable, row, **look, markerfacecolor="white")
        _annotate(axes, magnitude(trainable), trainable, row, colour)


def _annotate(axes: Axes, text: str, x: float, y: float, colour: str) -> None:
    """Write a value above its marker."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
    axes.annotate(
        text, (x, y), fontsize=9, color=colour, bbox=box, xytext=(0, 10), textcoords="offset points", ha="center"
    )
