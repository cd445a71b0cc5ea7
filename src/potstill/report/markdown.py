"""The report of a run for someone who has never seen Potstill, from the template `report.md.jinja`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import yaml

from potstill.config import PotstillConfig
from potstill.evaluation import Summary
from potstill.evaluation.metrics import BOOTSTRAP_SAMPLES
from potstill.predict.wording import numbered
from potstill.report.findings import examples_told_apart, findings
from potstill.report.plots import COMPARISON_FILE, RELIABILITY_FILE, curve_files
from potstill.report.tables import (
    MARKDOWN,
    ROLE_NAMES,
    class_table,
    classes,
    compared_roles,
    data_in_markdown,
    model_table,
    seed_table,
)

_SOURCES: Final = {
    "file": "from files",
    "sampled": "sampled from a language model tuned on the training texts",
    "perturbed": "made by perturbing training texts",
    "words": "single words",
    "spans": "spans of the training texts",
}
_USED: Final = {
    **{"bootstrap_samples": BOOTSTRAP_SAMPLES, "classes": classes, "numbered": numbered, "role_names": ROLE_NAMES},
    **{"comparison_file": COMPARISON_FILE, "reliability_file": RELIABILITY_FILE, "curve_files": curve_files},
    "told_apart": examples_told_apart,
}
_TEMPLATE: Final = MARKDOWN.get_template("report/report.md.jinja", globals=_USED)


def report_text(summary: Summary, plots: str, more: Sequence[str] = ()) -> str:
    """Write the whole report.

    Args:
        summary: The run.
        plots: The directory of the plots, relative to the report.
        more: Sentences for "What it means", beside those of the summary.
    """
    return _TEMPLATE.render(_values(summary), plots=plots, more=list(more))


def report_part(summary: Summary, name: Literal["done", "definitions", "environment"]) -> str:
    """Return one of the report's sections, without its title."""
    return "".join(_TEMPLATE.blocks[name](_TEMPLATE.new_context(_values(summary)))).strip()


def _values(summary: Summary) -> dict[str, Any]:
    summary = replace(summary, data=data_in_markdown(summary.data))
    unlabelled = summary.unlabelled or {}
    columns = {ROLE_NAMES[role].lower(): [one.metrics for one in summary.of(role)] for role in compared_roles(summary)}
    return {
        "summary": summary,
        "data": summary.data,
        "config": PotstillConfig.build(summary.config, "the configuration in the summary"),
        "found": findings(summary),
        "models": model_table(summary).to_markdown(),
        "by_class": class_table(columns, summary.data.label_names),
        "by_seed": seed_table(summary).to_markdown(),
        "unlabelled": ", ".join(f"{unlabelled[kind]:,} {_SOURCES[kind]}" for kind in _SOURCES if kind in unlabelled),
        "settings": yaml.safe_dump(summary.config, sort_keys=False, allow_unicode=True),
    }
