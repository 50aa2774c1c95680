"""Predicted signals of an autograd step against what autograd saves."""

import pytest
import torch
from torch import Tensor

from scaled_sgd import HomogeneousMLP
from scaled_sgd.core.activations import Activation
from scaled_sgd.planning import Workload, nominal
from scaled_sgd.planning.signals import signals


@pytest.mark.parametrize("parameterization", ["ntp", "sp"])
@pytest.mark.parametrize("activation", ["relu", "abs", "tanh", "gelu", "softplus", "swish"])
@pytest.mark.parametrize("rank", [None, 6])
def test_the_bytes_that_autograd_saves_are_predicted(activation, parameterization, rank):
    options = {"activation": activation, "parameterization": parameterization}
    network = HomogeneousMLP(7, 3, depth=4, base_width=5, seed=0, rank=rank, **options)
    x, held = torch.randn(50, 7), []

    def keep(t: Tensor) -> Tensor:
        held.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        network(x)
    weights = {weight.data_ptr() for weight in network.parameters()}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (x, *held)}
    saved = sum(size for address, size in storages.items() if address not in weights)
    work = Workload(
        network.widths,
        50,
        activation=Activation.of(activation),
        parameterization=parameterization,
        factors=frozenset(network.factored.pairs),
    )
    assert signals(work, nominal("cpu"), data=1).saved[-1] == saved
