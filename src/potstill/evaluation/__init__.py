"""Scores, their uncertainty and comparisons, all from a whole split's predictions."""

from potstill.evaluation.calibration import Calibration
from potstill.evaluation.comparison import McNemar, PairedTest, majority_verdict, mcnemar, paired_test
from potstill.evaluation.intervals import Intervals, bootstrap_intervals
from potstill.evaluation.metrics import Metrics, compute_metrics
from potstill.evaluation.results import (
    ROLES,
    DataSummary,
    EnsembleResult,
    ModelResult,
    Role,
    Spread,
    Summary,
)

__all__ = [
    "ROLES",
    "Calibration",
    "DataSummary",
    "EnsembleResult",
    "Intervals",
    "McNemar",
    "Metrics",
    "ModelResult",
    "PairedTest",
    "Role",
    "Spread",
    "Summary",
    "bootstrap_intervals",
    "compute_metrics",
    "majority_verdict",
    "mcnemar",
    "paired_test",
]
