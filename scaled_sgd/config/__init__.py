"""Every key of a run's configuration, and how a configuration is read and checked."""

from scaled_sgd.config.schema import as_dict, describe, fits, flat, key_types
from scaled_sgd.config.sections import (
    STRATEGIES,
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
    "STRATEGIES",
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
    "describe",
    "fits",
    "flat",
    "key_types",
]
