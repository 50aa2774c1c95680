"""Seconds of the matrix products of a step."""

from dataclasses import dataclass

from scaled_sgd.planning.cluster import Cluster
from scaled_sgd.planning.load import Load


@dataclass(frozen=True)
class Products:
    """Seconds of a process's products in a step.

    Attributes:
        forward: z_k = h_{k−1} W_kᵀ.
        backward: δ_k W_k for k > 1 and δ_kᵀ h_{k−1}, and the forward pass again with checkpointing.
    """

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Both."""
        return self.forward + self.backward


def products(load: Load, cluster: Cluster, *, data: int, parts: int = 1) -> Products:
    """On n / data samples, with 1 / parts of each layer; 2 operations a weight and sample."""
    each = 2 * load.rows_of_a_rank(data) / parts / cluster.rate
    forward = each * load.weights
    backward = each * (2 * load.weights - load.sizes[0])
    return Products(forward, backward + (forward if load.checkpointing else 0.0))
