"""The plots of a run: three per model, one that compares the models, and one of how far they can be believed.

Figures are built without pyplot: no global state, no window, and safe in any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from potstill.evaluation import Calibration, ModelResult, Role, Summary
from potstill.evaluation.calibration import BINS, pool
from potstill.files import write_atomically
from potstill.report.tables import ROLE_NAMES, magnitude, percent, score

# Okabe and Ito's palette stays apart in every common kind of colour blindness, the markers in shades of grey.
COLOURS: dict[Role, str] = {"teacher": "#0072B2", "distilled": "#D55E00", "baseline": "#009E73"}
MARKERS: dict[Role, str] = {"teacher": "o", "distilled": "s", "baseline": "^"}
REFERENCE = "#555555"
DPI = 160
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}
COMPARISON_FILE = "comparison.png"
RELIABILITY_FILE = "reliability.png"
_DISTANCES = {
    "train_kl": "KL to the teacher",
    "train_mse": "squared distance to the teacher's logits",
    "train_hard": "cross-entropy to the teacher's answers",
}
"""What a distilled student's loss is made of beside the labels' term: one of these."""


def curve_files(role: Role) -> tuple[str, str, str]:
    """Name the three plots of one model."""
    return f"{role}_training_loss.png", f"{role}_validation_loss.png", f"{role}_accuracy.png"


def draw_plots(summary: Summary, directory: Path) -> list[Path]:
    """Draw all plots of a run into `directory`, which is made where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}
    for role in summary.roles:
        models = summary.of(role)
        majority = summary.data.selection_majority_accuracy
        drawn = (training_loss(models), validation_loss(models), accuracy(models, majority))
        figures |= dict(zip(curve_files(role), drawn, strict=True))
    figures[COMPARISON_FILE] = comparison(summary)
    figures[RELIABILITY_FILE] = reliability(summary)
    for name, figure in figures.items():
        save_figure(figure, directory / name)
    return [directory / name for name in figures]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))


def training_loss(models: Sequence[ModelResult]) -> Figure:
    """Draw what training minimises and, for a distilled student, the two terms that it is made of."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    _curves(axes, models, "train_loss")
    distance = next((key for key in _DISTANCES if _curve(models[0], key)), None)
    if distance is not None:
        for key, name, style in (
            ("train_ce", "cross-entropy to the labels", "--"),
            (distance, _DISTANCES[distance], ":"),
        ):
            epochs, mean = _mean_curve([_curve(model, key) for model in models])
            axes.plot(epochs, mean, style, color=REFERENCE, marker=".", label=name)
    _finish(axes, f"{ROLE_NAMES[models[0].role]}: training loss", "loss on the training split")
    axes.legend(**LEGEND)
    return figure


def validation_loss(models: Sequence[ModelResult]) -> Figure:
    """Draw the loss on the selection split, with the epochs that were kept."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    _curves(axes, models, "selection_loss")
    _kept_epochs(axes, models, "selection_loss")
    _finish(axes, f"{ROLE_NAMES[models[0].role]}: validation loss", "loss on the selection split")
    axes.legend(**LEGEND)
    return figure


def accuracy(models: Sequence[ModelResult], majority_accuracy: float) -> Figure:
    """Draw accuracy and, since accuracy alone hides a model that learnt nothing, MCC beside it.

    Args:
        models: The models of one role.
        majority_accuracy: Share of the most frequent class in the selection split.
    """
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    name = ROLE_NAMES[models[0].role]
    panels = (
        (left, "accuracy", "accuracy", "accuracy on the selection split (%)", 100.0, 100 * majority_accuracy),
        (right, "mcc", "MCC", "MCC on the selection split", 1.0, 0.0),
    )
    for axes, key, title, label, scale, reference in panels:
        _curves(axes, models, key, scale)
        _kept_epochs(axes, models, key, scale)
        axes.axhline(reference, linestyle="--", linewidth=1.2, color=REFERENCE, label="always the majority class")
        _finish(axes, f"{name}: {title}", label)
    # Without room above 0 the noise of a model that learnt nothing would fill the panel and look like progress.
    low, high = right.get_ylim()
    right.set_ylim(min(low, -0.02), max(high, 0.1))
    left.legend(**LEGEND)
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
        axes.axvline(reference, linestyle="--", linewidth=1.2, color=REFERENCE, zorder=1)
    mcc.set_title("MCC (0: learnt nothing, 1: perfect)", fontsize=10)
    accuracy_axes.set_title("accuracy (%)", fontsize=10)
    size.set_title("parameters (hollow: trainable)", fontsize=10)
    size.set_xscale("log")
    for axes in panels:
        axes.margins(x=0.2)
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    mcc.set_yticks(range(len(roles)), [ROLE_NAMES[role] for role in roles])
    mcc.set_ylim(len(roles) - 0.3, -0.6)  # the first model on top
    caption = f'Dashed: always "{summary.data.majority_label}". Bars: 95 % interval of a single seed.'
    if any(len(summary.of(role)) > 1 for role in roles):
        caption += " Small points: one seed each, their mean above."
    title = f"{summary.data.name}: evaluation split, {summary.data.evaluation} examples"
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
        calibrations = [model.calibration for model in summary.of(role)]
        _diagram(axes, role, calibrations)
        _confidences(texts, role, calibrations)
    left, below = grid[:, 0]
    left.set_ylabel("right answers (%)")
    below.set_ylabel("texts (%)")
    # No text is less certain than if all classes were equally probable.
    left.set_xlim(100 / len(summary.data.label_names) - 2, 102)
    left.set_ylim(-2, 102)
    figure.supxlabel("probability of the most probable class (%)", fontsize=10)
    figure.suptitle(
        f"Can the probabilities be believed? Evaluation split, {summary.data.evaluation} examples", fontsize=12
    )
    return figure


def _diagram(axes: Axes, role: Role, calibrations: Sequence[Calibration]) -> None:
    """Draw accuracy over confidence: a thin line per seed and, of several seeds, a thick one for all texts together."""
    axes.plot([0, 100], [0, 100], linestyle="--", linewidth=1.2, color=REFERENCE, label="as sure as right")
    diagrams = [calibration.bins for calibration in calibrations]
    for position, bins in enumerate(diagrams if len(diagrams) > 1 else ()):
        label = f"single seeds ({len(diagrams)})" if position == 0 else None
        points = [(100 * item.confidence, 100 * item.accuracy) for item in bins]
        axes.plot(*zip(*points, strict=True), color=COLOURS[role], alpha=0.35, linewidth=1, label=label)
    pooled = pool(diagrams)
    points = [(100 * item.confidence, 100 * item.accuracy) for item in pooled]
    label = "all seeds together" if len(diagrams) > 1 else "this model"
    axes.plot(
        *zip(*points, strict=True), color=COLOURS[role], linewidth=1.8, marker=MARKERS[role], markersize=4, label=label
    )
    error = fmean(calibration.ece for calibration in calibrations)
    axes.set_title(f"{ROLE_NAMES[role]}: ECE {percent(error)}", fontsize=11)
    axes.legend(loc="lower right", **LEGEND)
    _tidy(axes)


def _confidences(axes: Axes, role: Role, calibrations: Sequence[Calibration]) -> None:
    """Draw which share of the texts each point stands for."""
    pooled = pool(calibration.bins for calibration in calibrations)
    total = sum(item.count for item in pooled)
    starts = [100 * item.index / BINS for item in pooled]
    shares = [100 * item.count / total for item in pooled]
    axes.bar(starts, shares, width=100 / BINS, align="edge", color=COLOURS[role], edgecolor="white")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _curve(model: ModelResult, key: str) -> dict[int, float]:
    """Return one value per epoch, leaving out epochs that don't have it."""
    return {int(record["epoch"]): float(record[key]) for record in model.history if record.get(key) is not None}


def _mean_curve(curves: Sequence[dict[int, float]]) -> tuple[list[int], list[float]]:
    """Average over the epochs that every seed reached: beyond them the mean would jump where a seed stops early."""
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return epochs, [float(np.mean([curve[epoch] for curve in curves])) for epoch in epochs]


def _curves(axes: Axes, models: Sequence[ModelResult], key: str, scale: float = 1.0) -> None:
    """Draw a thin line per seed and, of several seeds, a thick one for their mean."""
    role = models[0].role
    curves = [{epoch: scale * value for epoch, value in _curve(model, key).items()} for model in models]
    if len(curves) > 1:
        for position, curve in enumerate(curves):
            label = f"single seeds ({len(curves)})" if position == 0 else None
            x, y = list(curve), list(curve.values())
            axes.plot(x, y, color=COLOURS[role], alpha=0.35, linewidth=1, marker=".", label=label)
    epochs, mean = _mean_curve(curves)
    label = "mean of the seeds" if len(curves) > 1 else f"seed {models[0].seed}"
    axes.plot(epochs, mean, color=COLOURS[role], linewidth=2.2, marker=MARKERS[role], markersize=5, label=label)


def _kept_epochs(axes: Axes, models: Sequence[ModelResult], key: str, scale: float = 1.0) -> None:
    """Ring the epoch of each seed whose weights were kept."""
    kept = [(model.best_epoch, _curve(model, key).get(model.best_epoch)) for model in models]
    points = [(epoch, scale * value) for epoch, value in kept if value is not None]
    if points:
        epochs, values = zip(*points, strict=True)
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
    """Draw all parameters and, where they are fewer, the trainable ones on a shared line."""
    colour, marker = COLOURS[model.role], MARKERS[model.role]
    axes.plot(model.parameters, row, marker=marker, markersize=9, color=colour, zorder=3)
    _annotate(axes, magnitude(model.parameters), model.parameters, row, colour)
    if model.trainable_parameters < model.parameters:
        trainable = model.trainable_parameters
        axes.plot([trainable, model.parameters], [row, row], color=colour, linewidth=1, alpha=0.5, zorder=1)
        axes.plot(trainable, row, marker=marker, markersize=9, color=colour, markerfacecolor="white", zorder=3)
        _annotate(axes, magnitude(trainable), trainable, row, colour)


def _annotate(axes: Axes, text: str, x: float, y: float, colour: str) -> None:
    """Write a value above its marker."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
    axes.annotate(
        text, (x, y), fontsize=9, color=colour, bbox=box, xytext=(0, 10), textcoords="offset points", ha="center"
    )
