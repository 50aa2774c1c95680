"""Evaluation metrics: built-in accuracy and mse, and any other `evaluate` module by name or script."""

from scaled_sgd.data.metrics.evaluation import Evaluation, built_in_metrics, load_metrics
from scaled_sgd.data.metrics.formulas import accuracy, mean_squared_error

__all__ = ["Evaluation", "accuracy", "built_in_metrics", "load_metrics", "mean_squared_error"]
