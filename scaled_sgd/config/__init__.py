"""Configuration keys, and how a configuration is read and checked."""

from scaled_sgd.config.keys import KEYS, as_dict, flat
from scaled_sgd.config.sections import (
    CheckpointConfig,
    Config,
    DataConfig,
    DiagnosticsConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
    ShardingConfig,
)

__all__ = [
    "KEYS",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DiagnosticsConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "ScalingConfig",
    "ShardingConfig",
    "as_dict",
    "flat",
]
