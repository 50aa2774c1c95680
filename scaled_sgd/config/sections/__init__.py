"""The configuration of a run: one class per section; each key states its type, limits and what it decides.

A key's docstring is its line in ``--help``. For incompatible keys see :mod:`scaled_sgd.config.incompatible`.
"""

from scaled_sgd.config.sections.checkpoint import CheckpointConfig
from scaled_sgd.config.sections.data import DataConfig
from scaled_sgd.config.sections.diagnostics import DiagnosticsConfig
from scaled_sgd.config.sections.marks import Decides, Stacked
from scaled_sgd.config.sections.model import ModelConfig
from scaled_sgd.config.sections.run import Config, RunConfig
from scaled_sgd.config.sections.sharding import ShardingConfig
from scaled_sgd.config.sections.steps import OptimConfig, ScalingConfig

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "Decides",
    "DiagnosticsConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "ScalingConfig",
    "ShardingConfig",
    "Stacked",
]
