"""Scores, their uncertainty and comparisons, all from a whole split's predictions."""

from potstill.evaluation.calibration import Calibration, ReliabilityBin
from potstill.evaluation.comparison import McNemar, PairedTest, majority_verdict, mcnemar, paired_test
from potstill.evaluation.intervals import Intervals, bootstrap_intervals
from potstill.evaluation.metrics import Metrics, compute_metrics
from potstill.evaluation.results import (
    ROLES,
    Aggregate,
    DataSummary,
    EnsembleResult,
    ModelResult,
    Role,
    Spread,
    Summary,
)

__all__ = [
    "ROLES",
    "Aggregate",
    "Calibration",
    "DataSummary",
    "EnsembleResult",
    "Intervals",
    "McNemar",
    "Metrics",
    "ModelResult",
    "PairedTest",
    "ReliabilityBin",
    "Role",
    "Spread",
    "Summary",
    "bootstrap_intervals",
    "compute_metrics",
    "majority_verdict",
    "mcnemar",
    "paired_test",
]
