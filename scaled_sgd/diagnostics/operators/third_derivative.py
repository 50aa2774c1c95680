"""The gradient of an eigenvalue of the Hessian, by an R-operator of second order (theory §9)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad

from scaled_sgd.diagnostics.operators.generic import GenericLoss
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.signals import Signals


@torch.no_grad()
def eigenvalue_gradient(batch: Minibatch, u: Sequence[Tensor]) -> list[Tensor]:
    """∇_θ (uᵀ H(θ) u) at fixed u: this process's rows of each layer, (width(k), m_{k−1}).  [ours]

    The gradient of λ if u is an eigenvector of norm 1 and λ simple; an error ε of u is one of about
    2‖D³L[u, ·, ·]‖ ε here. D³L[u, u, ·] is the second derivative of the gradient along u, so with
    R = d/dε at W + εu

        R²G_k = (α_k/n)(R²δ_kᵀ h_{k−1} + 2 Rδ_kᵀ Rh_{k−1} + δ_kᵀ R²h_{k−1}),

    one product of 3n rows a layer. Exact; where φ is piecewise linear it is that of the pieces.

    Args:
        batch: the minibatch.
        u: this process's rows of each layer, as :meth:`Eigenpairs.expand` gives them.
    """
    partition = batch.partition
    found = [torch.zeros_like(rows) for rows in u]
    for s in batch:
        for k, turned in enumerate(_turned(s, u), start=1):
            scale = partition.multiplier(k) / s.total
            found[k - 1].addmm_(turned.delta.T, turned.h, alpha=scale)
    return found


def generic_eigenvalue_gradient(problem: GenericLoss, u: Tensor) -> Tensor:
    """The same of any network, by nested backward passes; u and what is returned are flat."""
    directions = problem.vectors.named(u)
    zero = torch.zeros((), dtype=u.dtype, device=u.device)

    def curvature(parameters: dict[str, Tensor]) -> Tensor:
        def share(t: Tensor) -> Tensor:
            return problem.share({key: p + t * directions[key] for key, p in parameters.items()})

        twice: Tensor = grad(grad(share))(zero)
        return twice

    return problem.gradient(curvature)


@dataclass(frozen=True)
class _Turned:
    """(R²δ_k, 2Rδ_k, δ_k) in this process's columns and (h, Rh, R²h)_{k−1}, stacked: 3n rows each.

    Of the first layer only R²δ_1 and h_0.
    """

    delta: Tensor
    h: Tensor


def _turned(s: Signals, u: Sequence[Tensor]) -> list[_Turned]:
    """Signals and their first two derivatives along u of every layer."""
    partition, depth = s.partition, s.depth
    levels, z = _forward(s, u)
    Rf, R2f = z[depth].chunk(2)
    ends = torch.cat(
        [
            s.loss.hessian_product(s.f, Rf),
            s.loss.third_product(s.f, Rf) + s.loss.hessian_product(s.f, R2f),
        ]
    )
    Rdelta = partition.own(ends, depth)
    found: list[_Turned] = []
    for k in range(depth, 1, -1):
        first, second = Rdelta.chunk(2)
        doubled, delta = 2 * first, s.delta[k]
        found.append(_Turned(torch.cat([second, doubled, delta]), torch.cat([s.h[k - 1], levels[k - 1]])))
        product = Rdelta @ partition.local(k)
        product.addmm_(torch.cat([delta, doubled]), u[k - 1]).mul_(partition.multiplier(k))
        Ra = partition.own(partition.sum(product), k - 1)
        Rdelta = _through_slope(s, Ra, partition.own(z[k - 1], k - 1), k - 1)
    # Rh_0 = R²h_0 = 0.
    found.append(_Turned(Rdelta.chunk(2)[1], s.h[0]))
    return found[::-1]


def _forward(s: Signals, u: Sequence[Tensor]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """(Rh_k, R²h_k) of k = 1..l−1 and (Rz_k, R²z_k) of k = 1..l, stacked, complete on every process."""
    partition, n = s.partition, s.samples
    levels: dict[int, Tensor] = {}
    z: dict[int, Tensor] = {}
    for k in range(1, s.depth + 1):
        V, h = u[k - 1], s.h[k - 1]
        if k == 1:
            own = torch.cat([h @ V.T, h.new_zeros(n, partition.width(1))])
        else:
            before = levels[k - 1]
            own = torch.cat([h, 2 * before[:n]]) @ V.T
            own.addmm_(before, partition.local(k).T)
        z[k] = partition.gather(own.mul_(partition.multiplier(k)), k)
        if k == s.depth:
            break
        levels[k] = s.through_activation(z[k].view(2, n, -1), k).view_as(z[k])
        if partition.activation_at(k).curved:
            _, bend, _ = partition.activation_at(k).derivatives(s.gate[k])
            levels[k][n:].addcmul_(bend, z[k][:n].square())
    return levels, z


def _through_slope(s: Signals, Ra: Tensor, z: Tensor, k: int) -> Tensor:
    """(Rδ_k, R²δ_k) of δ_k = a_k ∘ φ′(z_k), from (Ra_k, R²a_k) and (Rz_k, R²z_k), this process's columns.

    Rδ = Ra ∘ φ′ + a ∘ φ″ ∘ Rz and R²δ = R²a ∘ φ′ + 2 Ra ∘ φ″ ∘ Rz + a ∘ (φ‴ ∘ Rz² + φ″ ∘ R²z).
    """
    n = s.samples
    found = s.own_through_activation(Ra.view(2, n, -1), k).view_as(Ra)
    if not s.partition.activation_at(k).curved:
        return found
    _, second, third = s.partition.activation_at(k).derivatives(s.own_gate(k))
    Rz, R2z, a = z[:n], z[n:], s.above[k]
    found[:n].addcmul_(second * a, Rz)
    found[n:].addcmul_(2 * second * Ra[:n], Rz)
    found[n:].addcmul_(a, third * Rz.square() + second * R2z)
    return found
