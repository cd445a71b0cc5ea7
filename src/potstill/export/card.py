"""The card of an exported student: what it is, what it scores, where it comes from, what it can't do.

It says in a page what the report of its run says, and begins with the YAML header that the Hugging Face hub reads
(https://huggingface.co/docs/hub/model-cards#model-card-metadata).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from huggingface_hub import EvalResult, ModelCardData

from potstill.config import PotstillConfig, TransformerConfig
from potstill.data.sources import HUB
from potstill.evaluation import DataSummary, ModelResult, majority_verdict
from potstill.evaluation.measure import Measurement
from potstill.evaluation.results import LinearResult
from potstill.export.origin import Origin
from potstill.predict.directory import Manifest
from potstill.predict.tokens import CHARACTERS_A_TOKEN
from potstill.predict.wording import in_markdown
from potstill.report import tables
from potstill.report.findings import abstention, paid
from potstill.teacher.backbone.builtin import BUILTIN

Layout = Literal["onnx", "web"]

_BACKBONE_LICENCES: Final = {BUILTIN: "Apache-2.0 (SmolLM2-135M-Instruct)"}
"""Of the backbone that Potstill can bring along."""
_DATA_LICENCES: Final = {
    "cola": "CoLA's sentences are excerpts from published linguistics texts; they belong to their authors. None is in "
    "these files.",
    "clinc150": "The training texts are CLINC150's (Larson et al. 2019, https://github.com/clinc/oos-eval), CC BY 3.0.",
    "builtin": "The training texts are Potstill's own, generated under Apache-2.0.",
}
"""Of the data that Potstill knows; all of it is English."""
_UNKNOWN_DATA: Final = "The data's licence is not known to Potstill: see where it came from."
_UNKNOWN_BACKBONE: Final = "its licence is not known to Potstill"

LIBRARY: Final = "potstill"
PIPELINE: Final = "text-classification"
"""What the hub calls library and task."""
_PLACEHOLDER: Final = "DIRECTORY"
"""Where the student is, in the card's commands."""
_CLASSES: Final = 10
"""Rows of the table of classes: a card is one page."""


def write_card(
    manifest: Manifest,
    origin: Origin,
    layout: Layout,
    *,
    network: str,
    parameters: int,
    checks: Sequence[str],
    scored: Measurement | ModelResult | None,
) -> str:
    """Return the card in Markdown, with a YAML header where the hub could read it.

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
    found = None if summary is None else summary.data
    if found is None and origin.corpus is not None:
        found = DataSummary.of(origin.corpus)
    data, known = None if found is None else tables.data_in_markdown(found), _known_data(config, found)
    tags = [tag for tag, applies in (("onnx", layout == "onnx"), ("knowledge-distillation", has_teacher)) if applies]
    tags += ["multi-label"] if manifest.task == "multi-label" else []
    values = {
        **{"manifest": manifest, "origin": origin, "layout": layout, "network": network, "parameters": parameters},
        **{"checks": checks, "config": config, "summary": summary, "record": record, "data": data},
        **{"has_teacher": has_teacher, "spec": {"ngram_size": 0, **manifest.spec}, "version": version("potstill")},
        "names": tables.classes([in_markdown(name) for name in manifest.label_names]),
        "example": '("A man sleeps.", "Somebody is awake.")' if manifest.in_pairs else '"The cat sat on the mat."',
        "characters": CHARACTERS_A_TOKEN * manifest.max_length,
        "cutting": "" if manifest.long_texts == "head" else f', "{manifest.long_texts}"',
        "averaged": 0 if summary is None or summary.ensemble is None else len(summary.of("teacher")),
        "header": "" if layout == "web" else _header(tags, found, known, scored),
        "paid": None if summary is None or role != summary.recommended_role else paid(summary, with_advice=False),
        "scores": "",
        "ece": None if scored is None else scored.calibration.ece,
        "selective": getattr(scored, "selective", None),
        "abstention": None,
        "command": "" if summary is None else shlex.join(map(_public, shlex.split(summary.command))),
    }
    if scored is not None and data is not None:
        values["scores"] = _comparison(origin, scored, data, has_teacher=has_teacher).to_markdown()
        values["verdict"] = majority_verdict(scored.intervals, data.majority_label)
        values["classes"] = tables.class_table({"this model": [scored.metrics]}, data.label_names, _CLASSES)
        if origin.details is not None and not data.multi_label and manifest.min_confidence is None:
            values["abstention"] = abstention(origin.details, Path(_PLACEHOLDER))
    if config is not None:
        backbone = getattr(config.teacher, "backbone", config.teacher.kind)
        values |= {
            "teacher": _teacher(config),
            "data_licence": _DATA_LICENCES.get(known, _UNKNOWN_DATA),
            "backbone": _public(backbone),
            "is_tuned": isinstance(config.teacher, TransformerConfig),
            "backbone_licence": _BACKBONE_LICENCES.get(backbone, _UNKNOWN_BACKBONE),
        }
    return tables.MARKDOWN.get_template("export/card.md.jinja").render(values)


def placed(card: str, name: str) -> str:
    """Write the name of a model of the hub into a card's commands."""
    return re.sub(rf"""(load\("|potstill \w+ ){_PLACEHOLDER}\b""", lambda found: found[1] + name, card)


def _header(tags: Sequence[str], data: DataSummary | None, known: str, scored: Measurement | ModelResult | None) -> str:
    """Write what the hub reads of a card. It names no licence: that is for the publisher to decide."""
    results = []
    if data is not None and scored is not None and not data.labels_by_teacher:
        results = _results(data, scored)
    return ModelCardData(
        language="en" if known in _DATA_LICENCES else None,
        library_name=LIBRARY,
        pipeline_tag=PIPELINE,
        tags=[LIBRARY, *tags],
        datasets=[_dataset(data)] if data is not None and data.source.startswith(HUB) else None,
        metrics=[*dict.fromkeys(one.metric_type for one in results)] or None,
        model_name=None if data is None else data.name,
        eval_results=results or None,
    ).to_yaml()


def _results(data: DataSummary, scored: Measurement | ModelResult) -> list[EvalResult]:
    metrics = scored.metrics
    f1 = ("f1", "macro-F1" if data.positive is None else "F1", tables.f1_of(metrics, data.positive))
    found = [
        ("accuracy", "subset accuracy" if data.multi_label else "accuracy", metrics.accuracy),
        *([] if metrics.micro_f1 is None else [("f1", "micro-F1", metrics.micro_f1)]),
        f1,
        ("matthews_correlation", "MCC", metrics.mcc),
    ]
    return [
        EvalResult(
            task_type=PIPELINE,
            dataset_type=_dataset(data),
            dataset_name=data.name,
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for kind, name, value in found
    ]


def _dataset(data: DataSummary) -> str:
    """Name the data without its configuration, as the hub does."""
    return data.name.partition(":")[0]


def _known_data(config: PotstillConfig | None, data: DataSummary | None) -> str:
    """Name the data as `_DATA_LICENCES` does, where it is some that Potstill knows."""
    if config is None:
        return ""
    source = config.data.sources[0]
    is_named = data is not None and Path(source).name == data.name
    return data.name if data is not None and is_named else source.partition(":")[0]


def _comparison(
    origin: Origin, scored: Measurement | ModelResult, data: DataSummary, *, has_teacher: bool
) -> tables.ResultTable:
    models: dict[str, Sequence[tables.Scored]] = {"this model": [scored]}
    costs: dict[str, Sequence[ModelResult | LinearResult]] = {}
    if origin.result is not None:
        costs["this model"] = [origin.result]
    if (summary := origin.summary) is not None and origin.record is not None:
        whose = "its teacher" if has_teacher else "teacher"
        if summary.ensemble is not None:
            models[f"{whose}s, averaged"] = [summary.ensemble]
        elif summary.teacher is not None:
            models[whose] = costs[whose] = [summary.teacher]
        for role in summary.roles:
            if role not in ("teacher", origin.record.role):
                of_role = summary.of(role)
                seeds = f", {len(of_role)} seeds" if len(of_role) > 1 else ""
                name = f"{tables.ROLE_NAMES[role].lower()}{seeds}"
                models[name] = costs[name] = of_role
        if summary.linear is not None:
            models["linear SVM"] = costs["linear SVM"] = [summary.linear]
    return tables.comparison_table(models, costs, data)


def _public(name: str) -> str:
    """Name a file, a backbone or a server without the directories or the host of the machine it was read from."""
    flag, is_given, value = name.partition("=") if name.startswith("--") else ("", "", name)
    is_path = value.startswith((".", "/", "~")) or value.count("/") > 1 or Path(value).exists()
    return f"{flag}{is_given}{Path(value).name if is_path else value}"


def _teacher(config: PotstillConfig) -> str:
    teacher = config.teacher
    backbone = getattr(teacher, "backbone", None)
    return (teacher if backbone is None else teacher.model_copy(update={"backbone": _public(backbone)})).describe()
