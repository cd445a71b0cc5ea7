"""The card of an exported student: what it is, what it scores, where it comes from, what it can't do."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import jinja2

from potstill.config import PotstillConfig, TransformerConfig
from potstill.evaluation import DataSummary, majority_verdict
from potstill.export.origin import Origin
from potstill.predict.directory import Manifest
from potstill.predict.tokens import CHARACTERS_A_TOKEN
from potstill.predict.wording import in_markdown
from potstill.report import tables
from potstill.teacher.backbone.builtin import BUILTIN

Layout = Literal["onnx", "huggingface", "web"]

_BACKBONE_LICENCES: Final = {BUILTIN: "Apache-2.0 (SmolLM2-135M-Instruct)"}
"""Of the backbone that Potstill can bring along."""
_DATA_LICENCES: Final = {
    "cola": "CoLA's sentences are excerpts from published linguistics texts; they belong to their authors. None is in "
    "these files.",
    "clinc150": "The training texts are CLINC150's (Larson et al. 2019, https://github.com/clinc/oos-eval), CC BY 3.0.",
    "builtin": "The training texts are Potstill's own, generated under Apache-2.0.",
}
_UNKNOWN_DATA: Final = "The data's licence is not known to Potstill: see where it came from."
_UNKNOWN_BACKBONE: Final = "its licence is not known to Potstill"

_MARKDOWN: Final = jinja2.Environment(  # noqa: S701 - a card is Markdown, no HTML
    loader=jinja2.PackageLoader("potstill", "export"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_MARKDOWN.filters |= {"in_markdown": in_markdown, "magnitude": tables.magnitude, "percent": tables.percent}


def write_card(
    manifest: Manifest,
    origin: Origin,
    layout: Layout,
    *,
    network: str,
    parameters: int,
    checks: Sequence[str],
    scored: tables.Scored | None,
) -> str:
    """Return the card in Markdown.

    Args:
        manifest: What the student is.
        origin: Where it comes from.
        layout: How it was exported.
        network: The network in one phrase.
        parameters: Its number of parameters.
        checks: What of it was checked, in sentences.
        scored: What it scored on the test split; None where there is nothing to score it on.
    """
    config, summary, record = origin.config, origin.summary, origin.record
    role = None if record is None else record.role
    is_distilled = summary is not None and bool(summary.of("distilled"))  # then its n-grams are, too
    has_teacher = role == "distilled" or (role == "ngram" and is_distilled)
    data = None if summary is None else tables.data_in_markdown(summary.data)
    if data is None and origin.corpus is not None:
        data = tables.data_in_markdown(DataSummary.of(origin.corpus))
    values = {
        **{"manifest": manifest, "origin": origin, "layout": layout, "network": network, "parameters": parameters},
        **{"checks": checks, "config": config, "summary": summary, "record": record, "data": data},
        **{"has_teacher": has_teacher, "spec": {"ngram_size": 0, **manifest.spec}, "version": version("potstill")},
        "names": tables.classes([in_markdown(name) for name in manifest.label_names]),
        "example": '("A man sleeps.", "Somebody is awake.")' if manifest.in_pairs else '"The cat sat on the mat."',
        "characters": CHARACTERS_A_TOKEN * manifest.max_length,
        "cutting": "" if manifest.long_texts == "head" else f', "{manifest.long_texts}"',
        "averaged": 0 if summary is None or summary.ensemble is None else len(summary.of("teacher")),
        "scores": "",
        "selective": getattr(scored, "selective", None),
    }
    if scored is not None and data is not None:
        rows = {"this model": scored}
        if summary is not None and has_teacher and (teacher := summary.ensemble or summary.teacher) is not None:
            rows["its teacher" if summary.ensemble is None else "its teachers, averaged"] = teacher
        named = tables.score_headers(data.label_names, data.positive, multi_label=data.multi_label)
        headers = ("", *named)
        cells = tuple((tables.Cell(name), *tables.score_cells([row], data.positive)) for name, row in rows.items())
        values["scores"] = tables.ResultTable(headers, cells).to_markdown()
        values["verdict"] = majority_verdict(scored.intervals, data.majority_label)
    if config is not None:
        source = config.data.sources[0]
        if data is not None and (source == "auto" or Path(source).name == data.name):
            source = data.name
        backbone = getattr(config.teacher, "backbone", config.teacher.kind)
        values |= {
            "teacher": _teacher(config),
            "data_licence": _DATA_LICENCES.get(source, _UNKNOWN_DATA),
            "backbone": _public(backbone),
            "is_tuned": isinstance(config.teacher, TransformerConfig),
            "backbone_licence": _BACKBONE_LICENCES.get(backbone, _UNKNOWN_BACKBONE),
        }
    return _MARKDOWN.get_template("card.md.jinja").render(values)


def _public(name: str) -> str:
    """Name a backbone without the directories of the machine it was read from."""
    is_path = name.startswith((".", "/", "~")) or Path(name).exists()
    return Path(name).name if is_path else name


def _teacher(config: PotstillConfig) -> str:
    teacher = config.teacher
    backbone = getattr(teacher, "backbone", None)
    return (teacher if backbone is None else teacher.model_copy(update={"backbone": _public(backbone)})).describe()
