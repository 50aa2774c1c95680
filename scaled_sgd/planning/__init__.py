"""Memory, traffic and time of a step, predicted from sizes; nothing is allocated and nothing sent."""

from scaled_sgd.planning.cluster import Cluster, nominal
from scaled_sgd.planning.cost import Cost
from scaled_sgd.planning.load import Load
from scaled_sgd.planning.plan import PLANNED, Advice, advise, fits, possible, predict

__all__ = ["PLANNED", "Advice", "Cluster", "Cost", "Load", "advise", "fits", "nominal", "possible", "predict"]
