"""How a network trains over processes: strategies that all give the same step (``sharding.strategy``)."""

from scaled_sgd.train.strategies.base import Strategy

__all__ = ["Strategy"]
