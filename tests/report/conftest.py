"""Made-up runs: the numbers only have to be consistent with each other. Models without training have no history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from potstill.config import PotstillConfig
from potstill.data.examples import Corpus, Examples
from potstill.evaluation import (
    Calibration,
    DataSummary,
    LinearResult,
    ModelResult,
    Role,
    Summary,
    bootstrap_intervals,
    compute_metrics,
    mcnemar,
)

LABELS = np.array([1] * 365 + [0] * 162)
"""CoLA's in-domain development split: 365 of 527 sentences are acceptable."""
SIZES: dict[Role, tuple[int, int]] = {
    "teacher": (134_515_008, 2_442_240),
    "distilled": (1_824_002, 1_824_002),
    "baseline": (1_824_002, 1_824_002),
}


def predict(error_rate: float, seed: int) -> np.ndarray:
    """Flip this share of the labels; 1 makes a model that always says the majority class."""
    if error_rate == 1:
        return np.ones_like(LABELS)
    return np.where(np.random.default_rng(seed).random(LABELS.size) < error_rate, 1 - LABELS, LABELS)


def make_history(epochs: int, seed: int, *, distilled: bool) -> tuple[dict[str, Any], ...]:
    noise = np.random.default_rng(seed).normal(0, 0.015, (epochs, 4))
    return tuple(
        {
            "epoch": epoch,
            "steps": 200 * epoch,
            "train_loss": 0.25 + 0.5 / epoch + float(a),
            "train_ce": 0.3 + 0.4 / epoch + float(a),
            "train_kl": 0.1 + 0.6 / epoch + float(b) if distilled else None,
            "validation_loss": 0.5 + 0.2 / epoch + 0.01 * epoch + float(b),
            "accuracy": 0.75 - 0.1 / epoch + float(c),
            "mcc": 0.35 - 0.35 / epoch + float(d),
            "f1": 0.8,
        }
        for epoch, (a, b, c, d) in enumerate(noise, start=1)
    )


def make_model(role: Role, seed: int, error_rate: float, epochs: int) -> ModelResult:
    predictions = predict(error_rate, seed)
    parameters, trainable = SIZES[role]
    return ModelResult(
        role=role,
        seed=seed,
        description=f"the {role} of the description",
        parameters=parameters,
        trainable_parameters=trainable,
        bytes_on_disk=4 * parameters,
        train_seconds=1810.0 if role == "teacher" else 45.2,
        texts_per_second=52.0 if role == "teacher" else 3120.4,
        metrics=compute_metrics(LABELS, predictions, 2),
        intervals=bootstrap_intervals(LABELS, predictions, 2),
        validation_mcc=0.4,
        best_epoch=epochs,
        epochs=epochs,
        history=make_history(epochs, seed, distilled=role == "distilled"),
        calibration=make_calibration(predictions, seed),
    )


def make_calibration(predictions: np.ndarray, seed: int) -> Calibration:
    """Let a model be sure of these answers to different degrees."""
    certainty = np.random.default_rng(seed).gamma(2.0, 1.0, predictions.size)
    return Calibration.of(np.where(predictions[:, None] == [0, 1], certainty[:, None], 0.0), LABELS)


def build_summary(
    error_rates: tuple[float, float, float] = (0.2, 0.3, 0.4),
    seeds: tuple[int, ...] = (0,),
    epochs: int = 3,
    linear: float | None = None,
) -> Summary:
    """Build a run; the error rates are those of teacher, distilled students, baselines and of a linear model."""
    teacher, distilled, baseline = error_rates
    part = Examples(tuple(str(i) for i in range(LABELS.size)), LABELS)
    corpus = Corpus("cola", "/data/cola", ("unacceptable", "acceptable"), part, part, part)
    students = [
        model
        for seed in seeds
        for model in (
            make_model("distilled", 10 + seed, distilled, epochs),
            make_model("baseline", 10 + seed, baseline, epochs),
        )
    ]
    more: dict[str, Any] = {}
    if linear is not None:
        answers = predict(linear, 30)
        metrics, intervals = compute_metrics(LABELS, answers, 2), bootstrap_intervals(LABELS, answers, 2)
        more["linear"] = LinearResult(metrics, intervals, 50_000, 200_000, 1.5, 9_000.0)
        more["against_linear"] = {10 + seed: mcnemar(LABELS, predict(distilled, 10 + seed), answers) for seed in seeds}
    return Summary(
        data=DataSummary.of(corpus),
        models=(make_model("teacher", 0, teacher, epochs), *students),
        teacher_seed=0,
        comparisons={
            10 + seed: mcnemar(LABELS, predict(distilled, 10 + seed), predict(baseline, 10 + seed)) for seed in seeds
        },
        command="potstill run --config config.yaml",
        config=PotstillConfig().model_dump(mode="json"),
        environment={"python": "3.11.9", "torch": "2.8.0", "device": "cpu"},
        **more,
    )


@pytest.fixture(scope="session")
def make_summary() -> Callable[..., Summary]:
    return build_summary
