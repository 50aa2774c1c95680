"""Strategies for training over processes; all give the same step (``sharding.strategy``)."""

from scaled_sgd.train.strategies.base import Strategy

__all__ = ["Strategy"]
