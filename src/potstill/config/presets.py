"""Settings that belong together, by name: what `potstill run FILE` does without a configuration file."""

from __future__ import annotations

from typing import Any, Final, Literal

Preset = Literal["plain", "balanced"]

PRESETS: Final[dict[Preset, dict[str, Any]]] = {
    "plain": {},
    "balanced": {
        "augment": {"words": 20_000, "spans": 20_000},
        "student": {
            "embedding_init": "teacher",
            "dropout": 0.3,
            "training": {"epochs": 8, "learning_rate": 2e-3, "keep": "last", "patience": None},
            "seeds": [0, 1, 2],
        },
    },
}
"""What each preset sets; every other setting has its own default. `python benchmarks/tasks.py` compares
them with a linear model on public tasks."""


def with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Put the settings of `values["preset"]`, if it names one, below the other values."""
    return _merged(PRESETS.get(values.get("preset", "plain"), {}), values)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = below | above
    for name, value in below.items():
        if isinstance(value, dict) and isinstance(given := above.get(name, {}), dict):
            merged[name] = _merged(value, given)
    return merged
