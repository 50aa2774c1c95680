"""Taylor coefficients of the minibatch loss along the scaled gradient step (theory §4)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.steps.scales import resolve_scales
from scaled_sgd.steps.signals import Minibatch, Signals, gradient_rows

UpdateRows = Callable[[int], Tensor | None]
"""This process's rows of α_k U_k = −α_k ξ_k G_k for a layer k, or None to keep U_k in factors."""


@dataclass(frozen=True)
class TaylorCoefficients:
    """L(θ + ηu) = c0 + c1 η + c2 η² + c3 η³ + O(η⁴) with u = (−ξ_k G_k)_k, as 0-dimensional tensors.

    The expansion is exact while no activation changes sign. Coefficients above the order asked for
    are None.

    Attributes:
        gauss_newton: mean ½ℓ''(f1, f1), the part of c2 from moving outputs.
        feature: mean ℓ'·f2, the part of c2 from moving features.
        scales: the ξ used, shape (l,).
    """

    c0: Tensor
    c1: Tensor
    c2: Tensor | None
    c3: Tensor | None
    gauss_newton: Tensor | None
    feature: Tensor | None
    scales: Tensor

    @property
    def directional_sharpness(self) -> Tensor:
        """2 c2 / |c1|: uᵀHu over the slope; a step of size η is at the edge when η times it is 2.

        Raises:
            UserError: the coefficients stop at order 1.
        """
        if self.c2 is None:
            raise UserError("order: 1 has no directional sharpness; allowed: 2 or 3")
        return 2 * self.c2 / self.c1.abs()

    def predicted_loss(self, lr: float | Tensor) -> Tensor:
        """The polynomial at η = ``lr``."""
        value = torch.zeros_like(self.c0)
        for c in (self.c3, self.c2, self.c1):
            if c is not None:
                value = (value + c) * lr
        return value + self.c0


def taylor_coefficients(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: str,
    scales: str | Tensor | None = None,
    order: int = 3,
    chunk_size: int | None = None,
) -> TaylorCoefficients:
    """c0..c3 of the global minibatch loss along u = (−ξ_k G_k)_k.

    Args:
        model: a HomogeneousMLP, wrapped and sharded as may be.
        x: this process's samples (n, m_0).
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        scales: ξ: None for 1, a rule of :mod:`scaled_sgd.steps.hook` by name, or a tensor (l,).
        order: 1, 2 or 3.
        chunk_size: at most so many samples at a time; the gradient is then held, row-sharded.

    Raises:
        UserError: another kind of network, unfit x, y or scales, or another order.
    """
    if order not in (1, 2, 3):
        raise UserError(f"order: {order!r} is not available; allowed: 1, 2, 3")
    batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
    return taylor_of(batch, resolve_scales(scales, batch), order=order)


@torch.no_grad()
def taylor_of(batch: Minibatch, xi: Tensor, *, order: int = 3) -> TaylorCoefficients:
    """The coefficients of a minibatch whose signals may serve other diagnostics too, for ξ (l,)."""
    rows: UpdateRows | None = None
    if batch.chunked:
        alpha = batch.partition.multiplier
        updates = {k: G.mul_(-alpha(k) * xi[k - 1]) for k, G in gradient_rows(batch).items()}
        rows = updates.__getitem__
    sums = torch.stack([chunk_sums(s, rows or small_updates(s, xi), xi, order=order) for s in batch])
    c0, slope, gauss_newton, feature, cubic = (sums.sum(0) / batch.total).unbind()
    return TaylorCoefficients(
        c0=c0,
        c1=slope,
        c2=gauss_newton + feature if order > 1 else None,
        c3=cubic if order > 2 else None,
        gauss_newton=gauss_newton if order > 1 else None,
        feature=feature if order > 1 else None,
        scales=xi,
    )


def small_updates(signals: Signals, xi: Tensor) -> UpdateRows:
    """Rows of α_k U_k where forming them costs less than its factors do, judged by multiplications."""
    partition, n = signals.partition, signals.samples

    def rows(k: int) -> Tensor | None:
        m_in, m_out = partition.model.widths[k - 1 : k + 1]
        if 4 * m_in * m_out > 3 * n * (m_in + m_out):
            return None
        scale = -xi[k - 1] * (partition.multiplier(k) ** 2 / signals.total)
        return (signals.delta[k] * scale).T @ signals.h[k - 1]

    return rows


def chunk_sums(signals: Signals, rows: UpdateRows, xi: Tensor, *, order: int) -> Tensor:
    """Sums over samples of ℓ, ℓ'·f1, ½ℓ''(f1,f1), ℓ'·f2 and the terms of c3, shape (5,)."""
    loss, f, y = signals.loss, signals.f, signals.y
    r = loss.gradient(f, y)
    jets, top = output_jets(signals, rows, xi, order=order)
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


def output_jets(signals: Signals, rows: UpdateRows, xi: Tensor, *, order: int) -> tuple[list[Tensor], Tensor]:
    """f1..f_{p−1} of order p, each (samples, m_l), and Σ ℓ'·f_p.

    z_k^(p) = α_k (h^(p) W_kᵀ + h^(p−1) U_kᵀ). The last level is never propagated: by the adjoint
    identity Σ ℓ'·f_p = Σ_k α_k ⟨δ_k, h_{k−1}^(p−1) U_kᵀ⟩. Level p vanishes before layer p, so the
    stack of levels grows by one a layer until it is complete.
    """
    partition, n = signals.partition, signals.samples
    top = signals.f.new_zeros(())
    levels = signals.h[0][:0]
    for k in range(1, partition.depth + 1):
        alpha, h = partition.multiplier(k), signals.h[k - 1]
        pushed = min(len(levels) + n, n * (order - 1))
        z = h.new_empty(pushed, partition.width(k))
        top += push_update(signals, rows(k), -xi[k - 1] * (alpha**2 / signals.total), levels, k, out=z)
        if len(levels):
            z[: len(levels)].addmm_(levels, partition.local(k).T, alpha=alpha)
        levels = partition.gather(z, k) if pushed else z.new_empty(0, partition.model.widths[k])
        if pushed and k < partition.depth:
            by_level = levels.view(-1, n, levels.shape[1])
            levels = signals.through_activation(by_level, k).view_as(levels)
    jets = list(torch.split(levels, n)) if len(levels) else []
    jets += [torch.zeros_like(signals.f)] * (order - 1 - len(jets))
    return jets, partition.sum(top)


def push_update(
    signals: Signals, update: Tensor | None, scale: Tensor, levels: Tensor, k: int, *, out: Tensor
) -> Tensor:
    """``out`` ← α_k h^(p−1) U_kᵀ for the levels p that ``out`` has rows for.

    Returns this process's part of α_k ⟨δ_k, h^(p−1) U_kᵀ⟩ for the level p above those, or 0. With U_k in
    factors, α_k h^(p−1) U_kᵀ = scale · (h^(p−1) hᵀ) δ_k and scale = −ξ_k α_k²/n.
    """
    partition, n, h, delta = signals.partition, signals.samples, signals.h[k - 1], signals.delta[k]
    first, above = min(n, len(out)), max(len(out) - n, 0)
    if update is not None:
        torch.mm(h[:first], update.T, out=out[:first])
        if above:
            torch.mm(levels[:above], update.T, out=out[n:])
        top = levels[above:] if first else h
        return (delta * (top @ update.T)).sum() if len(top) else scale.new_zeros(())
    own = partition.own(h, k - 1)
    C = partition.sum(torch.cat([own @ own.T, partition.own(levels, k - 1) @ own.T]))
    torch.mm(C[: len(out)] * scale, delta, out=out)
    top = C[len(out) :]
    return scale * (top * (delta @ delta.T)).sum() if len(top) else scale.new_zeros(())
