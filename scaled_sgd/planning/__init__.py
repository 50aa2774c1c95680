"""Predicts memory, traffic and time of a step from sizes; allocates and sends nothing."""

from scaled_sgd.planning.advice import Advice, advise, fits
from scaled_sgd.planning.cost import Cost
from scaled_sgd.planning.hardware import Hardware, nominal
from scaled_sgd.planning.table import COSTS, predict, rows
from scaled_sgd.planning.workload import Workload

__all__ = ["COSTS", "Advice", "Cost", "Hardware", "Workload", "advise", "fits", "nominal", "predict", "rows"]
