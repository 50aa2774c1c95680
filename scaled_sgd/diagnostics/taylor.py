"""Taylor coefficients of the minibatch loss along a direction of its step (theory §3b, §4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.directions import (
    Updates,
    fit_direction,
    given_direction,
    update_rows,
    updates_along,
)
from scaled_sgd.diagnostics.eigenpairs import Eigenpairs
from scaled_sgd.diagnostics.generic_line import GenericLine, check_along, check_unchunked
from scaled_sgd.diagnostics.hessian import is_homogeneous
from scaled_sgd.diagnostics.jets import chunk_sums
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.scales import resolve_scales
from scaled_sgd.steps.signals import Signals

Along = Direction | Updates
"""u = −U of what :func:`~scaled_sgd.diagnostics.directions.fit_direction` returned, or α_k u_k."""


@dataclass(frozen=True)
class TaylorCoefficients:
    """L(θ + ηu) = c0 + c1 η + c2 η² + c3 η³ + O(η⁴), as 0-dimensional tensors.

    With φ(s) = a·s + b·|s| the expansion is that of the loss while no z_k changes sign. Coefficients above
    the requested order are None.

    Attributes:
        gauss_newton: mean ½ℓ''(f1, f1), the part of c2 from moving outputs.
        feature: mean ℓ'·f2, the part of c2 from moving features.
        scales: the numbers of the direction, shape (l,): ξ if u = (−ξ_k G_k)_k; None along dense tensors.
    """

    c0: Tensor
    c1: Tensor
    c2: Tensor | None
    c3: Tensor | None
    gauss_newton: Tensor | None
    feature: Tensor | None
    scales: Tensor | None

    @property
    def directional_sharpness(self) -> Tensor:
        """2 c2 / |c1|: uᵀHu over the slope; a step of size η is at the edge when η times it is 2.

        Raises:
            UserError: the coefficients stop at order 1.
        """
        if self.c2 is None:
            raise UserError("order: 1 has no directional sharpness; allowed: 2 or 3")
        return 2 * self.c2 / self.c1.abs()

    def directional_edge_ratio(self, lr: float) -> float | None:
        """ρ = η c2/|c1|; at ρ = 1 the quadratic model predicts no decrease; None unless c1 < 0 < c2.

        Raises:
            UserError: the coefficients stop at order 1.
        """
        ratio = lr * float(self.directional_sharpness) / 2
        return ratio if float(self.c1) < 0 < ratio else None

    def predicted_loss(self, lr: float | Tensor) -> Tensor:
        """The polynomial at η = ``lr``."""
        value = torch.zeros_like(self.c0)
        for c in (self.c3, self.c2, self.c1):
            if c is not None:
                value = (value + c) * lr
        return value + self.c0


@without_autocast
def taylor_coefficients(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: str,
    scales: str | Tensor | None = None,
    direction: Direction | Sequence[Tensor] | Eigenpairs | None = None,
    order: int = 3,
    chunk_size: int | None = None,
) -> TaylorCoefficients:
    """c0..c3 of the global minibatch loss along u = (−ξ_k G_k)_k, or along any other direction.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded; other networks take the generic path, without
            rules, K and chunks.
        x: this process's samples (n, m_0).
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        scales: ξ: None for 1, a rule of :mod:`scaled_sgd.steps.rules` by name, or a tensor (l,).
        direction: instead of ``scales``: K, for u_k = −U_k = −(α_k/n) δ_kᵀ K_k h_{k−1}, with samples in the
            order of ranks; or u itself, one tensor per layer, shaped like W_k or this process's rows of it;
            or eigenpairs, for the first eigenvector.
        order: 1, 2 or 3.
        chunk_size: largest number of samples at a time; the update is then held, row-sharded.

    Raises:
        UserError: invalid x, y, scales or direction, or another order.
    """
    if order not in (1, 2, 3):
        raise UserError(f"order: {order!r} is not available; allowed: 1, 2, 3")
    if not is_homogeneous(model):
        check_unchunked(chunk_size)
        return generic_taylor(
            GenericLine(model, x, y, loss=loss, direction=direction, scales=scales), order=order
        )
    batch = Minibatch(model, x, y, loss=loss, chunk_size=chunk_size)
    return taylor_of(batch, along_of(batch, direction, scales), order=order)


def along_of(batch: Minibatch, direction: object, scales: str | Tensor | None) -> Along:
    """The direction that :func:`taylor_coefficients` takes.

    Raises:
        UserError: both are given, or one does not fit.
    """
    check_along(direction, scales)
    if isinstance(scales, str):
        return fit_direction(RULES[scales](batch.statistics), batch)
    if direction is None:
        return Direction(resolve_scales(scales, batch))
    return given_direction(direction, batch)


def generic_taylor(line: GenericLine, *, order: int = 3) -> TaylorCoefficients:
    """The coefficients of any network's loss along a line."""
    return _from_terms(line.terms(order), order, line.scales)


@torch.no_grad()
def taylor_of(batch: Minibatch, along: Along, *, order: int = 3) -> TaylorCoefficients:
    """The coefficients of a minibatch whose signals can be shared with other diagnostics."""
    updates = updates_for(batch, along)
    sums = [chunk_sums(s, updates(s), order=order) for s in batch]
    terms = torch.stack(sums).sum(0) / batch.total
    return _from_terms(terms, order, along.numbers if isinstance(along, Direction) else None)


def _from_terms(terms: Tensor, order: int, scales: Tensor | None) -> TaylorCoefficients:
    """From c0, c1, both parts of c2, and c3."""
    c0, c1, gauss_newton, feature, c3 = terms.unbind()
    return TaylorCoefficients(
        c0=c0,
        c1=c1,
        c2=gauss_newton + feature if order > 1 else None,
        c3=c3 if order > 2 else None,
        gauss_newton=gauss_newton if order > 1 else None,
        feature=feature if order > 1 else None,
        scales=scales,
    )


def updates_for(batch: Minibatch, along: Along) -> Callable[[Signals], Updates]:
    """Gives α_k u_k for the signals of each chunk."""
    if not isinstance(along, Direction):
        return lambda _: along
    if batch.chunked:
        rows = update_rows(batch, along)
        return lambda _: rows
    return lambda signals: updates_along(signals, along)
