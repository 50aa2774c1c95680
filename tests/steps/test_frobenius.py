"""Steps of factorised layers against autograd on U Vᵀ, and Frobenius decay against its penalty."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from scaled_sgd.core.losses import get_loss
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.core.parameterization import layer_constants
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.frobenius import FrobeniusDecay
from scaled_sgd.steps.stack import Stack
from scaled_sgd.steps.statistics import Statistics
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update
from tests.oracles import Problem, gradients, make_problem

LR, LAMBDA, MU = 0.1, 0.3, 0.7


def problem(parameterization: str = "sp", **options: Any) -> Problem:
    """Widths 5, (3,) 4, (3,) 4, (3,) 4, 3 with a rank of 3."""
    known = {"base_width": 4, "width_exponent": 0.0, "rank": 3}
    return make_problem(parameterization=parameterization, **known | options)


def plain(statistics: Statistics) -> Direction:
    return Direction(torch.ones_like(statistics.F))


def ordinary_weights(model: HomogeneousMLP) -> list[Tensor]:
    """W_1..W_l that the network's forward pass multiplies by α_j: products of factors, or weights."""
    found, layers = [], model.scaled_layers
    for k, layer in enumerate(layers, start=1):
        if k - 1 in model.factored.pairs:
            continue
        j = model.factored.ordinary_layer(k)
        alpha = layer_constants(model.parameterization, j, model.factored.ordinary).multiplier
        W = layer.multiplier * layer.weight
        if k in model.factored.pairs:
            W = layers[k].multiplier * layers[k].weight @ W
        found.append(W / alpha)
    return found


def penalty_gradients(model: HomogeneousMLP) -> list[Tensor]:
    """Of λ/2 Σ_j ‖W_j‖_F², by autograd."""
    penalty = 0.5 * LAMBDA * sum(W.square().sum() for W in ordinary_weights(model))
    return list(torch.autograd.grad(penalty, list(model.parameters())))


@pytest.mark.parametrize("parameterization", ["nup", "ntp", "sp", "mup"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_factorised_network_is_that_of_the_products(parameterization, activation):
    p = problem(parameterization, activation=activation)
    whole = HomogeneousMLP(
        5, 3, depth=4, base_width=4, width_exponent=0.0, activation=activation,
        parameterization=parameterization, seed=0, dtype=torch.float64,
    )  # fmt: skip
    products = dict(zip(dict(whole.named_parameters()), ordinary_weights(p.model), strict=True))
    loss = get_loss(p.loss).value(functional_call(whole, products, (p.x,)), p.y).mean()
    wanted = torch.autograd.grad(loss, list(p.model.parameters()))
    for found, G in zip(gradients(p), wanted, strict=True):
        torch.testing.assert_close(found, G, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("momentum", [0.0, MU])
@pytest.mark.parametrize("parameterization", ["nup", "ntp", "sp", "mup"])
def test_frobenius_decay_is_the_gradient_of_its_penalty(parameterization, momentum):
    p = problem(parameterization)
    partition, before = Partition.of(p.model), [W.detach().clone() for W in p.model.parameters()]
    pairs = zip(gradients(p), penalty_gradients(p.model), strict=True)
    velocity = [torch.randn_like(W) for W in before]
    v = [momentum * v + G + decay for v, (G, decay) in zip(velocity, pairs, strict=True)]
    take_step(
        partition,
        p.x,
        p.y,
        loss=get_loss(p.loss),
        direct=plain,
        update=Update(
            LR,
            momentum=momentum,
            velocity=lambda k: velocity[k - 1],
            frobenius=FrobeniusDecay.of(partition, LAMBDA),
        ),
    )
    for W, start, step in zip(p.model.parameters(), before, v, strict=True):
        torch.testing.assert_close(W.detach(), start - LR * step, rtol=1e-12, atol=1e-14)


def test_networks_of_a_stack_decay_each_by_its_own():
    problems = [problem(parameterization) for parameterization in ("ntp", "sp")]
    alone = [problem(parameterization) for parameterization in ("ntp", "sp")]
    numbers = (LAMBDA, 0.0)
    for p, number in zip(alone, numbers, strict=True):
        partition = Partition.of(p.model)
        decay = FrobeniusDecay.of(partition, number) if number else None
        take_step(
            partition, p.x, p.y, loss=get_loss(p.loss), direct=plain, update=Update(LR, frobenius=decay)
        )
    stack = Stack([p.model for p in problems])
    number = torch.tensor(numbers, dtype=torch.float64)[:, None, None]
    lr = torch.full((2, 1, 1), LR, dtype=torch.float64)
    take_step(
        stack,
        problems[0].x,
        problems[0].y.expand(2, -1),
        loss=get_loss(problems[0].loss),
        direct=plain,
        update=Update(lr, frobenius=FrobeniusDecay.of(stack, number)),
    )
    for p, other in zip(problems, alone, strict=True):
        for W, V in zip(p.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(W, V, rtol=1e-12, atol=1e-14)


class Pair:
    """Two processes as two threads: their sum and their gather."""

    size, members = 2, (0, 1)

    def __init__(self, rank: int, held: list[Tensor], barrier: threading.Barrier) -> None:
        self.rank, self._held, self._barrier = rank, held, barrier

    def _all(self, t: Tensor) -> list[Tensor]:
        self._held[self.rank] = t.clone()
        self._barrier.wait()
        found = list(self._held)
        self._barrier.wait()
        return found

    def sum(self, t: Tensor) -> Tensor:
        return t.copy_(sum(self._all(t)))

    def gather(self, t: Tensor, sizes: list[int]) -> Tensor:
        parts = self._all(t)
        assert [len(part) for part in parts] == sizes
        return torch.cat(parts)


def test_processes_that_hold_rows_find_their_rows_of_the_decay():
    model = problem("nup").model
    one, held, barrier = Partition.of(model), [torch.empty(0)] * 2, threading.Barrier(2, timeout=60)
    whole = FrobeniusDecay.of(one, LAMBDA)

    @torch.no_grad()
    def rows_of(rank: int) -> dict[int, tuple[slice, Tensor | None]]:
        offsets = tuple((0, -(-m // 2), m) for m in model.widths)
        own = replace(one, ranks=Pair(rank, held, barrier), offsets=offsets)
        decay = FrobeniusDecay.of(own, LAMBDA)
        return {k: (own.columns(k), decay.pull(k)) for k in range(1, model.depth + 1)}

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(rows_of, (0, 1)))
    for k in range(1, model.depth):
        wanted = whole.pull(k)
        assert wanted is not None
        for columns, rows in (own[k] for own in found):
            torch.testing.assert_close(rows, wanted[columns], rtol=1e-12, atol=1e-14)
    assert all(own[model.depth][1] is None for own in found)
