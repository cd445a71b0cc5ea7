"""The report of a run as one HTML page without any other file, for a screen, a phone or paper."""

from __future__ import annotations

import json
import re
import shlex
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import jinja2
import yaml
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from potstill.evaluation import Summary
from potstill.evaluation.details import Details, LearningCurve
from potstill.evaluation.significance import SIGNIFICANCE
from potstill.predict.wording import numbered, printable
from potstill.report.findings import findings
from potstill.report.markdown import report_sections
from potstill.report.plots import COLOURS, COMPARISON_FILE, MARKERS, RELIABILITY_FILE, curve_files
from potstill.report.tables import (
    ROLE_NAMES,
    Cell,
    ResultTable,
    class_table,
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
_MARKUP: Final = re.compile(
    r"\\(?P<plain>[^\w\s])|`(?P<code>[^`]*)`|\*\*(?P<strong>.+?)\*\*|(?<!\w)\*(?P<em>[^*]+)\*(?!\w)", re.DOTALL
)
"""The Markdown inside Potstill's sentences, and what `in_markdown` escapes."""

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
    data, models = summary.data, model_table(summary)
    found = findings(replace(summary, data=data_in_markdown(data)))
    sections = {title: _html(text) for title, text in report_sections(summary, "").items()}
    roles = sorted(summary.roles, key=lambda role: ("distilled", "baseline", "teacher").index(role))[:2]
    scored = {ROLE_NAMES[role]: [one.metrics for one in summary.of(role)] for role in roles}
    f1, accuracy, mcc = score_headers(data.label_names, data.positive)
    names = ("model", accuracy, "on disk", "texts/s", f1, mcc)
    drawn = {file.name: _inlined(file.read_bytes()) for file in plots.glob("*.png")}
    curves = {
        f"{ROLE_NAMES[role]}: {name}": drawn[file]
        for role in summary.roles
        for name, file in curve_files(summary, role).items()
        if file in drawn
    }
    page = _HTML.get_template("report.html.jinja").render(
        summary=summary,
        lead=_lead(summary),
        first=_html(found[0]),
        others=_html("\n".join(f"- {line}" for line in found[1:])),
        sections=sections,
        headline=_columns(models, names),
        models=models,
        classes=class_table(scored, data.label_names),
        curves=curves,
        comparison=drawn.get(COMPARISON_FILE),
        reliability=drawn.get(RELIABILITY_FILE),
        details=details,
        parts=None if details is None else _parts(summary, details),
        directory=shlex.quote(str(run_dir)),
        python_directory=json.dumps(str(run_dir), ensure_ascii=False),
        settings=yaml.safe_dump(summary.config, sort_keys=False, allow_unicode=True),
    )
    return f"{printable(page).strip()}\n"


def _lead(summary: Summary) -> str:
    """Say in one sentence what was done."""
    data = summary.data
    models = [numbered(len(summary.of(role)), ROLE_NAMES[role].lower()) for role in summary.roles]
    if summary.linear is not None:
        models.append("a linear SVM")
    listed = " and ".join([", ".join(models[:-1]), models[-1]]) if models[1:] else "".join(models)
    return (
        f"This run compares {listed} on {numbered(data.test, 'test text')} of {len(data.label_names):,} classes; "
        f"{data.train:,} other labelled texts were for training, {data.validation:,} for validation."
    )


def _parts(summary: Summary, details: Details) -> dict[str, Any]:
    """Return what the template shows of the details."""
    names, curve = summary.data.label_names, details.learning_curve
    covered = [min(details.coverage, key=lambda point: abs(point[0] - share)) for share in _COVERAGES]
    wrong = sum(texts for label, answer, texts in details.confusion if label != answer)
    return {
        "student": f"{ROLE_NAMES[details.role].lower()}, seed {details.seed}",
        "wrong": wrong,
        "matrix": _matrix(details, len(names)) if len(names) <= _MATRIX_CLASSES else None,
        "pairs": _confused_pairs(details, names),
        "risk": _inlined(_drawn(_risk(details))),
        "covered": ResultTable(
            ("texts answered", "errors among them"),
            tuple((Cell(percent(share)), Cell(percent(risk))) for share, risk in dict.fromkeys(covered)),
        ),
        "learning": None if curve is None else _inlined(_drawn(_learning(curve))),
        "learnt": "" if curve is None else _more_labels(curve, summary.data.validation),
        "learning_table": None
        if curve is None
        else ResultTable(
            ("training texts", "accuracy"),
            tuple(
                (Cell(f"{texts:,}"), Cell(percent(accuracy)))
                for texts, accuracy in zip(curve.texts, curve.accuracies, strict=True)
            ),
        ),
    }


def _matrix(details: Details, classes: int) -> list[list[tuple[int, float]]]:
    """Return for each label and answer the number of texts, and their share among the label's texts."""
    counts = {(label, answer): texts for label, answer, texts in details.confusion}
    rows = [[counts.get((label, answer), 0) for answer in range(classes)] for label in range(classes)]
    return [[(texts, texts / max(sum(row), 1)) for texts in row] for row in rows]


def _confused_pairs(details: Details, names: Sequence[str]) -> ResultTable:
    """Show the most frequent mistakes."""
    totals = [0] * len(names)
    for label, _, texts in details.confusion:
        totals[label] += texts
    mistakes = sorted((cell for cell in details.confusion if cell[0] != cell[1]), key=lambda cell: -cell[2])
    rows = (
        (Cell(f"{names[label]} → {names[answer]}"), Cell(f"{texts:,}"), Cell(percent(texts / totals[label])))
        for label, answer, texts in mistakes[:_SHOWN_PAIRS]
    )
    return ResultTable(("label → answer", "texts", "of the label's texts"), tuple(rows))


def _more_labels(curve: LearningCurve, validation: int) -> str:
    """Say whether more labels would help, as far as the last step of the learning curve tells."""
    gain = curve.accuracies[-1] - curve.accuracies[-2]
    step = (
        f"From {curve.texts[-2]:,} to {curve.texts[-1]:,} training texts the linear model's accuracy changed by "
        f"{100 * gain:+.1f} points on {numbered(validation, 'validation text')} "
        f"(McNemar's test, {probability(curve.last_step.p_value)})."
    )
    if gain > 0 and curve.last_step.p_value < SIGNIFICANCE:
        return f"More labelled texts would probably help: the curve still rises. {step}"
    if gain >= _CLEAR_GAIN:
        return f"More labelled texts may help: the curve still rises, but that can be chance. {step}"
    return f"More labelled texts of the same kind would hardly help: the curve is flat at its end. {step}"


def _risk(details: Details) -> Figure:
    shares, risks = zip(*details.coverage, strict=True)
    figure, look = Figure(figsize=(6.4, 4.0), layout="constrained"), COLOURS[details.role]
    axes = figure.subplots()
    axes.plot([100 * share for share in shares], [100 * risk for risk in risks], color=look, linewidth=2)
    axes.set(xlabel="texts answered, the surest first (%)", ylabel="wrong answers among them (%)", xlim=(0, 101))
    axes.set_ylim(bottom=0)
    return _plain(figure)


def _learning(curve: LearningCurve) -> Figure:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    values = [100 * accuracy for accuracy in curve.accuracies]
    axes.plot(curve.texts, values, color=COLOURS["linear"], marker=MARKERS["linear"], linewidth=2)
    axes.set(xlabel="training texts", ylabel="accuracy on the validation split (%)", xlim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(y=0.15)
    return _plain(figure)


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _drawn(figure: Figure) -> bytes:
    figure.savefig(file := BytesIO(), format="png", dpi=160)
    return file.getvalue()


def _inlined(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"


def _columns(table: ResultTable, headers: Sequence[str]) -> ResultTable:
    """Return some columns of a table."""
    places = [table.headers.index(header) for header in headers]
    return ResultTable(tuple(headers), tuple(tuple(row[place] for place in places) for row in table.rows))


def _html(markdown: str) -> Markup:
    """Turn the Markdown of Potstill's own sentences into HTML: paragraphs, lists, bold, code, escaped characters."""
    blocks = []
    for block in filter(None, map(str.strip, markdown.split("\n\n"))):
        if block.startswith("- "):
            items = "".join(f"<li>{_inline(item)}</li>" for item in block[2:].split("\n- "))
            blocks.append(f"<ul>{items}</ul>")
        else:
            blocks.append(f"<p>{_inline(block)}</p>")
    return Markup("\n".join(blocks))  # noqa: S704 - `_inline` escapes


def _inline(text: str) -> str:
    return _MARKUP.sub(_tag, str(escape(text)))


def _tag(found: re.Match[str]) -> str:
    name = str(found.lastgroup)
    if name == "plain":
        return found[name]
    content = found[name] if name == "code" else _MARKUP.sub(_tag, found[name])
    return f"<{name}>{content}</{name}>"
