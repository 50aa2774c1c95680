"""Derivatives of any order through column-parallel layers, against autograd in one process."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from scaled_sgd import HomogeneousMLP
from scaled_sgd.parallel import local_shard, row_range
from scaled_sgd.parallel.tensor_parallel import parallelize
from tests.processes import run_processes

pytestmark = pytest.mark.slow

ORDERS = 3
SHAPES = {
    "even": {"in_features": 6, "out_features": 4, "depth": 3, "base_width": 4},
    "ragged": {"in_features": 7, "out_features": 9, "depth": 4, "base_width": 5, "activation": "abs"},
    "fewer outputs than processes": {"in_features": 7, "out_features": 3, "depth": 4, "base_width": 3},
    "one layer": {"in_features": 5, "out_features": 3, "depth": 1, "base_width": 2},
}


def network(name: str, device: str = "cpu") -> HomogeneousMLP:
    return HomogeneousMLP(**SHAPES[name], seed=3, dtype=torch.float64, device=device)


def problem(model: HomogeneousMLP) -> tuple[Tensor, Tensor, list[Tensor]]:
    """x, y and a direction for each weight and for x, the same in every process."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(11, model.widths[0], generator=generator, dtype=torch.float64)
    y = torch.randint(model.widths[-1], (11,), generator=generator)
    shapes = [*((m_out, m_in) for m_in, m_out in itertools.pairwise(model.widths)), tuple(x.shape)]
    return x, y, [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def derivatives(loss: Tensor, variables: list[Tensor], directions: list[Tensor]) -> list[list[Tensor]]:
    """∇L, ∇(∇L·v), ∇(∇(∇L·v)·v) by autograd, in what this process holds of each variable."""
    found = []
    scalar = loss
    for _ in range(ORDERS):
        gradients = torch.autograd.grad(scalar, variables, create_graph=True)
        found.append([local_shard(g).clone() for g in gradients])
        own = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
        scalar = sum((g * v).sum() for g, v in zip(own, directions, strict=True))
    return found


def in_one_process(name: str) -> list[list[Tensor]]:
    model = network(name)
    x, y, directions = problem(model)
    x.requires_grad_()
    return derivatives(F.cross_entropy(model(x), y), [*model.parameters(), x], directions)


def in_several(size: int) -> dict[str, list[list[Tensor]]]:
    mesh = init_device_mesh("cpu", (size,))
    found = {}
    for name in SHAPES:
        whole, model = network(name), network(name, "meta")
        parallelize(model, mesh)
        model.to_empty(device="cpu")
        x, y, directions = problem(model)
        for k, (layer, full) in enumerate(zip(model.scaled_layers, whole.scaled_layers, strict=True)):
            rows = slice(*row_range(layer.weight))
            local_shard(layer.weight).copy_(full.weight.detach()[rows])
            directions[k] = directions[k][rows]
        x.requires_grad_()
        found[name] = derivatives(F.cross_entropy(model(x), y), [*model.parameters(), x], directions)
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_derivatives_of_every_order_are_those_of_one_process(size):
    parts = run_processes(in_several, size, size)
    for name in SHAPES:
        for order, wanted in enumerate(in_one_process(name)):
            *weights, of_x = zip(*(part[name][order] for part in parts), strict=True)
            *wanted_weights, wanted_of_x = wanted
            for k, (rows, full) in enumerate(zip(weights, wanted_weights, strict=True), start=1):
                error = (torch.cat(rows) - full).abs().max() / full.abs().max()
                assert error < 1e-12, (name, order, k)
            for found in of_x:
                error = (found - wanted_of_x).abs().max() / wanted_of_x.abs().max()
                assert error < 1e-12, (name, order)
