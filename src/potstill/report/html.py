"""The report of a run as one HTML page without any other file, for a screen, a phone or paper."""

from __future__ import annotations

import json
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import jinja2
import yaml
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib.figure import Figure

from potstill.evaluation import Summary
from potstill.evaluation.details import Details, LearningCurve
from potstill.evaluation.significance import SIGNIFICANCE
from potstill.predict.wording import numbered, printable
from potstill.report.findings import abstention, findings
from potstill.report.markdown import report_part
from potstill.report.plots import COLOURS, COMPARISON_FILE, RELIABILITY_FILE, curve_files, write_png
from potstill.report.tables import (
    HEADLINES,
    ROLE_NAMES,
    Cell,
    ResultTable,
    class_table,
    compared_roles,
    data_in_markdown,
    model_table,
    percent,
    probability,
    score_headers,
)

_MATRIX_CLASSES: Final = 20
"""A matrix of more classes fits neither a phone nor paper; the most confused pairs are shown instead."""
_SHOWN_PAIRS: Final = 20
_COVERAGES: Final = (0.5, 0.8, 0.9, 0.95, 1.0)
_CLEAR_GAIN: Final = 0.005
"""A smaller gain in accuracy from the last step of the learning curve is hardly worth more labels."""
_MARKDOWN: Final = MarkdownIt("zero").enable(["list", "emphasis", "backticks", "escape"])
"""Of Potstill's own sentences. Without links and images, which could lead out of the page."""
_HTML: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("potstill", "report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_HTML.filters["percent"] = percent


def report_html(summary: Summary, details: Details | None, run_dir: Path, plots: Path) -> str:
    """Write the page.

    Args:
        summary: The run.
        details: Single texts and curves; None: their sections are left out.
        run_dir: Where the run is, for the commands that the page shows.
        plots: Directory with what `draw_plots` drew; the page holds copies of what is there.
    """
    data, names, models = summary.data, summary.data.label_names, model_table(summary)
    found = findings(replace(summary, data=data_in_markdown(data)))
    roles = compared_roles(summary)
    scores = score_headers(data.label_names, data.positive, multi_label=data.multi_label)
    first, *others = sorted(scores, key=lambda name: name != HEADLINES[data.headline])
    drawn = {file.name: _inlined(file.read_bytes()) for file in plots.glob("*.png")}
    page = _HTML.get_template("report.html.jinja").render(
        summary=summary,
        lead=_lead(summary),
        first=_html(found[0]),
        others=_html("\n".join(f"- {line}" for line in found[1:])),
        part=lambda name: _html(report_part(summary, name)),
        headline=_columns(models, ("model", first, "on disk", "texts/s", *others)),
        models=models,
        classes=class_table({ROLE_NAMES[role]: [one.metrics for one in summary.of(role)] for role in roles}, names),
        curves={
            f"{ROLE_NAMES[role]}: {name}": drawn[file]
            for role in summary.roles
            for name, file in curve_files(summary, role).items()
            if file in drawn
        },
        comparison=drawn.get(COMPARISON_FILE),
        reliability=drawn.get(RELIABILITY_FILE),
        details=details,
        parts=None
        if details is None
        else _parts(summary, details) | {"abstention": "" if data.multi_label else _html(abstention(details, run_dir))},
        directory=shlex.quote(str(run_dir)),
        python_directory=json.dumps(str(run_dir), ensure_ascii=False),
        settings=yaml.safe_dump(summary.config, sort_keys=False, allow_unicode=True),
    )
    return f"{printable(page).strip()}\n"


def _lead(summary: Summary) -> str:
    data = summary.data
    models = [numbered(len(summary.of(role)), ROLE_NAMES[role].lower()) for role in summary.roles]
    if summary.linear is not None:
        models.append("a linear SVM")
    listed = " and ".join([", ".join(models[:-1]), models[-1]]) if models[1:] else "".join(models)
    kind = "" if data.labels_by_teacher else "labelled "
    return (
        f"This run compares {listed} on {numbered(data.test, 'test text')} of {len(data.label_names):,} classes; "
        f"{data.train:,} other {kind}texts were for training, {data.validation:,} for validation."
    )


def _parts(summary: Summary, details: Details) -> dict[str, Any]:
    names, curve = summary.data.label_names, details.learning_curve
    counts = {(label, answer): texts for label, answer, texts in details.confusion}
    covered = [min(details.coverage, key=lambda point: abs(point[0] - share)) for share in _COVERAGES]
    risk = [(100 * share, 100 * risk) for share, risk in details.coverage]
    parts = {
        "student": f"{ROLE_NAMES[details.role].lower()}, seed {details.seed}",
        "wrong": round(details.coverage[-1][1] * summary.data.test),  # of all texts
        "pairs": _confused_pairs(counts, names),
        "matrix": None,
        "risk": _curve(risk, "texts answered, the surest first (%)", "wrong answers among them (%)", details.role),
        "covered": "; ".join(f"{percent(wrong)} of the surest {percent(share)}" for share, wrong in covered),
    }
    if counts and len(names) <= _MATRIX_CLASSES:
        rows = [[counts.get((label, answer), 0) for answer in range(len(names))] for label in range(len(names))]
        parts["matrix"] = [[(texts, texts / max(sum(row), 1)) for texts in row] for row in rows]
    if curve is not None:
        points = [(texts, 100 * accuracy) for texts, accuracy in curve.points]
        parts["learning"] = _curve(points, "training texts", "accuracy on the validation split (%)", "linear", "D")
        parts["more_labels"] = _more_labels(curve, summary.data.validation)
    return parts


def _confused_pairs(counts: Mapping[tuple[int, int], int], names: Sequence[str]) -> ResultTable:
    totals: Counter[int] = Counter()
    for (label, _), texts in counts.items():
        totals[label] += texts
    mistakes = Counter({cell: texts for cell, texts in counts.items() if cell[0] != cell[1]})
    rows = (
        (Cell(f"{names[label]} → {names[answer]}"), Cell(f"{texts:,}"), Cell(percent(texts / totals[label])))
        for (label, answer), texts in mistakes.most_common(_SHOWN_PAIRS)
    )
    return ResultTable(("label → answer", "texts", "of the label's texts"), tuple(rows))


def _more_labels(curve: LearningCurve, validation: int) -> str:
    """Say whether more labels would help, as far as the last step of the learning curve tells."""
    (before, less), (texts, more) = curve.points[-2:]
    gain, p_value = more - less, curve.last_step.p_value
    step = (
        f"From {before:,} to {texts:,} training texts the linear model's accuracy changed by {100 * gain:+.1f} points "
        f"on {numbered(validation, 'validation text')} (McNemar's test, {probability(p_value)})."
    )
    if gain > 0 and p_value < SIGNIFICANCE:
        return f"More labelled texts would probably help: the curve still rises. {step}"
    if gain >= _CLEAR_GAIN:
        return f"More labelled texts may help: the curve still rises, but that can be chance. {step}"
    return f"More labelled texts of the same kind would hardly help: the curve is flat at its end. {step}"


def _curve(points: Sequence[tuple[float, float]], x: str, y: str, colour: str, marker: str = "") -> str:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), color=COLOURS[colour], marker=marker, linewidth=2)
    axes.set(xlabel=x, ylabel=y)
    axes.set_xlim(left=0)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    write_png(figure, file := BytesIO())
    return _inlined(file.getvalue())


def _inlined(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"


def _columns(table: ResultTable, headers: Sequence[str]) -> ResultTable:
    places = [table.headers.index(header) for header in headers]
    return ResultTable(tuple(headers), tuple(tuple(row[place] for place in places) for row in table.rows))


def _html(markdown: str) -> Markup:
    return Markup(_MARKDOWN.render(markdown))  # noqa: S704 - HTML in it is escaped
