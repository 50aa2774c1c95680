"""How a network trains over processes: strategies that all give the same step (``sharding.strategy``)."""

from scaled_sgd.strategies.base import Strategy
from scaled_sgd.strategies.config import STRATEGIES, ShardingConfig

__all__ = ["STRATEGIES", "ShardingConfig", "Strategy"]
