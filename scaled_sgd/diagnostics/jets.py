"""Truncated polynomials in η through the network (theory §4, §8)."""

import torch
from torch import Tensor

from scaled_sgd.diagnostics.directions import Factors, Updates
from scaled_sgd.steps.signals import Signals


def chunk_sums(signals: Signals, updates: Updates, *, order: int) -> Tensor:
    """Sums over samples of ℓ, ℓ'·f1, ½ℓ''(f1,f1), ℓ'·f2 and the terms of c3, shape (5,)."""
    loss, f, y = signals.loss, signals.f, signals.y
    r = loss.gradient(f, y)
    jets, top = output_jets(signals, updates, order=order)
    slopes = [(r * jet).sum() for jet in jets] + [top]
    sums = f.new_zeros(5)
    sums[0] = loss.value(f, y).sum()
    sums[1] = slopes[0]
    if order > 1:
        bent = loss.hessian_product(f, jets[0])
        sums[2] = 0.5 * (jets[0] * bent).sum()
        sums[3] = slopes[1]
    if order > 2:
        sums[4] = slopes[2] + (bent * jets[1]).sum() + loss.third(f, jets[0]).sum() / 6
    return sums


def output_jets(signals: Signals, updates: Updates, *, order: int) -> tuple[list[Tensor], Tensor]:
    """f1..f_{p−1} of order p, each (samples, m_l), and Σ ℓ'·f_p.

    z_k^(p) = α_k (h^(p) W_kᵀ + h^(p−1) u_kᵀ). The last level is never propagated: by the adjoint
    identity Σ ℓ'·f_p = Σ_k α_k ⟨δ_k, h_{k−1}^(p−1) u_kᵀ⟩, plus what :func:`through_curve` adds. Level p
    vanishes before layer p, so the stack of levels grows by one per layer until it is complete; a curved φ
    completes it at once.
    """
    partition, n = signals.partition, signals.samples
    top = signals.f.new_zeros(())
    levels = signals.h[0][:0]
    for k in range(1, partition.depth + 1):
        alpha, h = partition.multiplier(k), signals.h[k - 1]
        pushed = min(len(levels) + n, n * (order - 1))
        z = h.new_empty(pushed, partition.width(k))
        top += push_update(signals, updates(k), levels, k, out=z)
        if len(levels):
            z[: len(levels)].addmm_(levels, partition.local(k).T, alpha=alpha)
        curved = pushed and k < partition.depth and partition.activation_at(k).curved
        if curved:
            z, beyond = through_curve(signals, z, k, order=order)
            top += beyond
        levels = partition.gather(z, k) if pushed else z.new_empty(0, partition.model.widths[k])
        if pushed and k < partition.depth and not curved:
            by_level = levels.view(-1, n, levels.shape[1])
            levels = signals.through_activation(by_level, k).view_as(levels)
    jets = list(torch.split(levels, n)) if len(levels) else []
    jets += [torch.zeros_like(signals.f)] * (order - 1 - len(jets))
    return jets, partition.sum(top)


def through_curve(signals: Signals, z: Tensor, k: int, *, order: int) -> tuple[Tensor, Tensor]:
    """h^(1)..h^(p−1) of order p from z_k's levels, and ⟨∂ℓ/∂h_k, what h^(p) has beside φ′ ∘ z^(p)⟩. [ours]

    h^(1) = φ′ ∘ z^(1), h^(2) = φ′ ∘ z^(2) + ½ φ″ ∘ z^(1)²,
    h^(3) = φ′ ∘ z^(3) + φ″ ∘ z^(1) ∘ z^(2) + ⅙ φ‴ ∘ z^(1)³. All in this process's columns.
    """
    n = signals.samples
    first, second, third = signals.partition.activation_at(k).derivatives(signals.own_gate(k))
    z1, z2 = z[:n], z[n : 2 * n]
    square = z1.square()
    half = 0.5 * second * square
    if order == 2:
        return first * z1, (signals.above[k] * half).sum()
    cubic = third * square * z1 / 6
    if len(z2):
        cubic += second * z1 * z2
        half += first * z2
    return torch.cat([first * z1, half]), (signals.above[k] * cubic).sum()


def push_update(signals: Signals, update: Tensor | Factors, levels: Tensor, k: int, *, out: Tensor) -> Tensor:
    """``out`` ← α_k h^(p−1) u_kᵀ for the levels p in ``out``.

    Returns this process's part of α_k ⟨δ_k, h^(p−1) u_kᵀ⟩ for the level p above those, or 0. With u_k in
    factors, α_k h^(p−1) u_kᵀ = scale · (h^(p−1) rightᵀ) left and scale = −ξ_k α_k²/n.
    """
    partition, n, h, delta = signals.partition, signals.samples, signals.h[k - 1], signals.delta[k]
    first, above = min(n, len(out)), max(len(out) - n, 0)
    if isinstance(update, Tensor):
        torch.mm(h[:first], update.T, out=out[:first])
        if above:
            torch.mm(levels[:above], update.T, out=out[n:])
        top = levels[above:] if first else h
        return (delta * (top @ update.T)).sum() if len(top) else out.new_zeros(())
    right = partition.own(update.right, k - 1)
    C = partition.sum(torch.cat([partition.own(t, k - 1) @ right.T for t in (h, levels)]))
    torch.mm(C[: len(out)] * update.scale, update.left, out=out)
    top = C[len(out) :]
    return update.scale * (top * (delta @ update.left.T)).sum() if len(top) else out.new_zeros(())
