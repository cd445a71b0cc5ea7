"""Settings that belong together, by name: what `potstill run FILE` does without a configuration file."""

from __future__ import annotations

from typing import Any, Final, Literal

Preset = Literal["plain", "fast", "balanced", "best"]

_STUDENT: Final[dict[str, Any]] = {
    "embedding_init": "teacher",
    "ngram_size": 16,
    "dropout": 0.3,
    "training": {"epochs": 8, "min_steps": 200, "learning_rate": 2e-3, "keep": "last", "patience": None},
}

PRESETS: Final[dict[Preset, dict[str, Any]]] = {
    "plain": {},
    "fast": {
        "teacher": {"training": {"epochs": 1, "min_steps": 100}},
        "augment": {"words": 5_000, "spans": 5_000},
        "student": _STUDENT | {"seeds": [0]},
    },
    "balanced": {
        "teacher": {"training": {"min_steps": 200}},
        "augment": {"words": 20_000, "spans": 20_000},
        "student": _STUDENT | {"seeds": [0, 1, 2]},
    },
    "best": {
        "teacher": {"training": {"min_steps": 200}, "seeds": [0, 1, 2]},
        "augment": {"words": 40_000, "spans": 40_000, "sampled": 20_000},
        "distillation": {"teachers": "average"},
        "student": _STUDENT | {"seeds": [0, 1, 2]},
    },
}
"""What each preset sets; every other setting has its own default. `python benchmarks/tasks.py` compares
them with a linear model on public tasks."""

_OF_KIND: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "teacher": ("transformer", ("training", "seeds")),
    "student": ("rnn", ("embedding_init", "ngram_size", "dropout")),
}
"""The kind that each preset is for, and which of its settings other kinds need not have."""


def with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Put the settings of `values["preset"]`, if it names one, below the other values.

    A preset leaves out what another choice has no use for: settings of another kind of teacher or student, and
    unlabelled text where `distillation.alpha` is 1, which ignores the teacher, or where each answer of a server costs.
    With a file of probabilities, the texts in that file are the unlabelled text. Where texts have several labels, it
    samples no texts.
    """
    preset = PRESETS.get(values.get("preset", "plain"), {})
    for part, (kind, own) in _OF_KIND.items():
        if part in preset and _setting(values, part, "kind", kind) != kind:
            preset = preset | {part: {name: value for name, value in preset[part].items() if name not in own}}
    if any(_setting(values, "data", name, None) for name in ("label_separator", "label_columns", "multi_label")):
        augment = {name: value for name, value in preset.get("augment", {}).items() if name != "sampled"}
        preset = preset | {"augment": augment}
    ignored = str(_setting(values, "distillation", "alpha", None)) in ("1", "1.0")  # flags are not parsed yet
    if ignored or _setting(values, "teacher", "url", None) is not None:
        preset = {part: settings for part, settings in preset.items() if part != "augment"}
    elif (file := _setting(values, "teacher", "file", None)) is not None:  # it has no answers to words and spans
        files = _setting(values, "augment", "files", [])
        preset = preset | {"augment": {}}
        if isinstance(files, list | tuple) and file not in files:
            section = values.get("augment") if isinstance(values.get("augment"), dict) else {}
            values = values | {"augment": (section or {}) | {"files": [*files, file]}}
    return _merged(preset, values)


def _setting(values: dict[str, Any], part: str, name: str, default: Any) -> Any:
    section = values.get(part)
    return section.get(name, default) if isinstance(section, dict) else default


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = below | above
    for name, value in below.items():
        if isinstance(value, dict) and isinstance(given := above.get(name, {}), dict):
            merged[name] = _merged(value, given)
    return merged
