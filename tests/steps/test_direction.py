"""Directions of matrices: the step they give is (α_k/n) δ_kᵀ K_k h_{k−1}, of one network and of a stack."""

import pytest
import torch

from scaled_sgd import DepthwiseScaling, HomogeneousMLP
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import get_loss
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.rules import RULES, register_rule
from scaled_sgd.steps.stack import Stack
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update

N, DEPTH = 7, 4


def network(seed=0):
    return HomogeneousMLP(6, 3, depth=DEPTH, base_width=3, activation="abs", seed=seed, dtype=torch.float64)


def minibatch():
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(N, width, generator=generator, dtype=torch.float64) for width in (6, 3))


def kernels(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(N, N, generator=generator, dtype=torch.float64) for _ in range(DEPTH)]


def directions_by_hand(model, x, y, K):
    """(α_k/n) δ_kᵀ K_k h_{k−1} with δ and h taken from autograd's own graph."""
    h, signals, z = [x], [], x
    for k, layer in enumerate(model.scaled_layers):
        z = layer(model.apply_activation(z) if k else z)
        z.retain_grad()
        signals.append(z)
        h.append(model.apply_activation(z).detach())
    get_loss("mse").value(z, y).sum().backward()
    return [
        layer.multiplier / N * signal.grad.T @ kernel @ before
        for layer, signal, kernel, before in zip(model.scaled_layers, signals, K, h[:-1], strict=True)
    ]


@pytest.mark.parametrize("held", [1 << 20, 0])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_a_step_takes_matrices_where_it_takes_numbers(held, momentum, monkeypatch):
    monkeypatch.setattr("scaled_sgd.steps.sizes.HELD", {"cpu": held})
    model, twin, (x, y), K = network(), network(), minibatch(), kernels(1)
    velocity = [torch.randn_like(W) for W in model.parameters()]
    before = [v.clone() for v in velocity]
    numbers = torch.tensor([2.0, 0.5, 1.0, 3.0], dtype=torch.float64)

    def direct(statistics):
        return Direction(numbers[statistics.layers], K[statistics.layers])

    update = Update(0.3, 0.1, momentum, lambda k: velocity[k - 1])
    taken = take_step(Partition.of(model), x, y, loss=get_loss("mse"), direct=direct, update=update)
    assert torch.equal(taken.scales, numbers)
    U = directions_by_hand(twin, x, y, K)
    for W, V, v, u, number in zip(model.parameters(), twin.parameters(), before, U, numbers, strict=True):
        step = (momentum * v if momentum else 0) + number * u + 0.1 * V
        torch.testing.assert_close(W, V - 0.3 * step, rtol=1e-12, atol=1e-13)


def test_networks_of_a_stack_take_matrices_of_their_own():
    models, (x, y) = [network(seed) for seed in (0, 1)], minibatch()
    twins, K = [network(seed) for seed in (0, 1)], [kernels(seed) for seed in (2, 3)]
    stacked = [torch.stack(each) for each in zip(*K, strict=True)]
    stack = Stack(models)
    take_step(
        stack,
        x,
        y.expand(2, *y.shape),
        loss=get_loss("mse"),
        direct=lambda s: Direction(torch.ones_like(s.F), stacked[s.layers]),
        update=Update(torch.tensor([0.1, 0.4], dtype=torch.float64)[:, None, None]),
        sizes=[N],
    )
    for model, twin, own, lr in zip(models, twins, K, (0.1, 0.4), strict=True):
        U = directions_by_hand(twin, x, y, own)
        for W, V, u in zip(model.parameters(), twin.parameters(), U, strict=True):
            torch.testing.assert_close(W, V - lr * u, rtol=1e-12, atol=1e-13)


def test_a_rule_sees_gram_matrices_and_gradient_norms_on_demand():
    model, (x, y), seen = network(), minibatch(), []

    def direct(statistics):
        grams = [statistics.grams(i) for i in range(DEPTH)]
        seen.append((statistics.gradient_squares, statistics.soft_ranks, grams))
        return Direction(torch.zeros_like(statistics.F))

    take_step(Partition.of(model), x, y, loss=get_loss("mse"), direct=direct, update=Update(0.1))
    squares, soft_ranks, grams = seen[0]
    get_loss("mse").value(model(x), y).mean().backward()
    expected = torch.stack([W.grad.square().sum() for W in model.parameters()])
    torch.testing.assert_close(squares, expected, rtol=1e-12, atol=0)
    batch = Minibatch(model, x, y, loss="mse")
    for k, (A, B) in enumerate(grams, start=1):
        h, delta = batch.first.h[k - 1], batch.first.delta[k]
        torch.testing.assert_close(batch.statistics.grams(k - 1), (A, B))
        torch.testing.assert_close(A, delta @ delta.T)
        torch.testing.assert_close(B, h @ h.T)
        assert float(soft_ranks[k - 1]) == pytest.approx(float(A.trace() * B.trace() / (A * B).sum()))


def test_a_rule_of_matrices_is_refused_where_gradients_are_scaled():
    @register_rule("toy", formula="a matrix", label="for this test", scalar=False)
    def toy(statistics):
        return Direction(torch.ones_like(statistics.F), [torch.eye(N)] * DEPTH)

    try:
        model, (x, _) = network(), minibatch()
        scaling = DepthwiseScaling(model, torch.optim.SGD(model.parameters(), 0.1), rule="toy")
        model(x).sum().backward()
        with pytest.raises(UserError, match=r"'toy' gives matrices.*optim.update fused"):
            scaling.update()
    finally:
        RULES.remove("toy")
