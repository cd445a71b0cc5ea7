"""Scores, their uncertainty and comparisons, all from a whole split's predictions."""

from potstill.evaluation.calibration import Calibration
from potstill.evaluation.metrics import Intervals, Metrics, bootstrap_intervals, compute_metrics
from potstill.evaluation.results import (
    DataSummary,
    EnsembleResult,
    LinearResult,
    ModelResult,
    Spread,
    Summary,
    TimeLimit,
)
from potstill.evaluation.significance import McNemar, PairedTest, majority_verdict, mcnemar, paired_test
from potstill.predict.directory import ROLES, Role

__all__ = [
    "ROLES",
    "Calibration",
    "DataSummary",
    "EnsembleResult",
    "Intervals",
    "LinearResult",
    "McNemar",
    "Metrics",
    "ModelResult",
    "PairedTest",
    "Role",
    "Spread",
    "Summary",
    "TimeLimit",
    "bootstrap_intervals",
    "compute_metrics",
    "majority_verdict",
    "mcnemar",
    "paired_test",
]
