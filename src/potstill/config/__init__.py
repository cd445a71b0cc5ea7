"""Every setting of Potstill, documented where it is defined, its default with its reason.

The docstring under a field is its documentation everywhere: the command line shows it in `--help`, and the errors name
the field. A configuration file may hold any part of this; what it leaves out takes the default, what it misspells is
refused.
"""

from potstill.config.augment import AugmentConfig
from potstill.config.base import Settings
from potstill.config.data import DataConfig
from potstill.config.potstill import PotstillConfig, read_yaml, with_settings
from potstill.config.search import Candidates, SearchConfig, searchable
from potstill.config.student import (
    BaselineConfig,
    Cell,
    DistillationConfig,
    Pooling,
    PretrainingConfig,
    RNNConfig,
    SoftLoss,
    StudentConfig,
)
from potstill.config.teacher import LoRAConfig, Method, TeacherConfig, TransformerConfig
from potstill.config.training import RuntimeConfig, TrainingConfig
from potstill.config.untuned import EndpointConfig, FileConfig, UntunedConfig

__all__ = [
    "AugmentConfig",
    "BaselineConfig",
    "Candidates",
    "Cell",
    "DataConfig",
    "DistillationConfig",
    "EndpointConfig",
    "FileConfig",
    "LoRAConfig",
    "Method",
    "Pooling",
    "PotstillConfig",
    "PretrainingConfig",
    "RNNConfig",
    "RuntimeConfig",
    "SearchConfig",
    "Settings",
    "SoftLoss",
    "StudentConfig",
    "TeacherConfig",
    "TrainingConfig",
    "TransformerConfig",
    "UntunedConfig",
    "read_yaml",
    "searchable",
    "with_settings",
]
