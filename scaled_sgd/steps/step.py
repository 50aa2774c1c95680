"""Fused steps, without autograd and without gradients: signals → statistics → direction → update.

δ_{k−1} needs the old W_k, so the backward pass first computes δ_{k−1}, then
W_k ← (1 − ηλ) W_k − η (α_k / n) (K_kᵀ δ_k)ᵀ h_{k−1} as one accumulating matrix product. No tensor of a
weight's size is allocated. Over several processes a layer's factors (h_{k−1}, δ_k) of all samples are
gathered, n (m_k + m_{k−1}) numbers instead of the m_k m_{k−1} of its gradient, and multiplied on every
process; if processes hold rows of W_k, only activations are exchanged. (Theory §2, §3, §3b, §6; the
algorithm is ours.) A stack of networks takes the same step with one more leading dimension.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import Loss
from scaled_sgd.core.products import matmul
from scaled_sgd.parallel import Ranks
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.layer import Layer, entries, statistics_of
from scaled_sgd.steps.networks import Networks
from scaled_sgd.steps.signals import See, backward, forward
from scaled_sgd.steps.sizes import at_once
from scaled_sgd.steps.statistics import Statistics, square_norms
from scaled_sgd.steps.update import Number, Update, add_product, add_scaled, keep_scaled

Direct = Callable[[Statistics], Direction]
"""Computes K from statistics, such as :meth:`~scaled_sgd.steps.hook.DepthwiseScaling.direction`."""


@dataclass(frozen=True)
class Taken:
    """The results of a step. Leading dimensions (…) are those of a stack; one network has none.

    Attributes:
        loss: sum of ℓ over this process's samples before the update, (…), float64; over all samples if
            processes hold rows of the weights.
        n: number of samples of the global minibatch.
        scales: the numbers of K, ξ of a scalar rule, (…, l), float64, without clipping.
        grad_norm: ‖(G_1, …, G_l)‖_F (…), float64; None unless requested or needed.
        soft_ranks: S_k (…, l), float64; None unless requested.
    """

    loss: Tensor
    n: int
    scales: Tensor
    grad_norm: Tensor | None = None
    soft_ranks: Tensor | None = None


@torch.no_grad()
def take_step(
    networks: Networks,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss,
    direct: Direct,
    update: Update,
    ranks: Ranks | None = None,
    sizes: Sequence[int] | None = None,
    by_factors: Sequence[bool] | None = None,
    measure: bool = False,
    see: See | None = None,
) -> Taken:
    """Take one step on this process's samples x (…, n_r, m_0), y of the global minibatch. Collective.

    Gives the same numbers as :class:`~scaled_sgd.steps.optimizer.ScaledSGD` with autograd.

    Args:
        networks: the networks to update. Processes that hold rows of the weights work on the same samples.
        x: this process's samples; their number may differ between processes and be 0.
        y: their targets.
        loss: ℓ.
        direct: computes K.
        update: applies U_k = (α_k/n) δ_kᵀ K_k h_{k−1}.
        ranks: processes that work on different samples; only this one if None.
        sizes: number of samples of each of them; communicated if None.
        by_factors: for each layer, whether ``ranks`` exchange factors instead of gradients; None: all do.
        measure: compute the norm of the whole gradient and the soft ranks.
        see: called with a :func:`~scaled_sgd.steps.divergence.witness` (…) of each z_k, and 1, then with
            this process's loss, and l + 1; on a CPU with the former only if the loss or f is not finite,
            which is the case if any z_k is not, or if the activation hides ∞ as relu does.

    Raises:
        UserError: weights that cannot be updated in place, or a direction with matrices while gradients
            are exchanged.
    """
    networks.check_in_place()
    ranks = Ranks.alone() if ranks is None else ranks
    sizes = ranks.counts(len(x), x.device) if sizes is None else list(sizes)
    n, depth = sum(sizes), networks.depth
    late = see is not None and x.device.type == "cpu" and not networks.activation.hides_infinity
    h, gate, f = forward(networks, x, see=None if late else see)
    losses, residual = loss.value_and_gradient(f, y)
    total = losses.sum(-1, dtype=torch.float64)
    if late and not (math.isfinite(total.sum().item()) and math.isfinite(f.sum().item())):
        forward(networks, x, see=see)
    if see is not None:
        see([total], depth + 1)

    def layers() -> Iterator[Layer]:
        """Layers from the last to the first, each once δ_{k−1} is known and W_k no longer needed."""
        delta = networks.factor(networks.own(residual, depth).contiguous())
        for k in range(depth, 0, -1):
            signal, own = h.pop(), delta
            factors = ranks.size > 1 and (by_factors is None or by_factors[k - 1])
            later = [ranks.gather_later(t, sizes) for t in (signal, own)] if factors else []
            if k > 1:
                delta = backward(networks, own, gate.pop(k - 1), k)
            if factors:
                signal, own = (wait() for wait in later)
            whole = factors or ranks.size == 1
            gradient = None if whole else ranks.sum(matmul(own.T, signal))
            yield Layer(networks, k, signal, own, gradient, whole)

    def groups() -> Iterator[list[Layer]]:
        """Layers whose directions and updates are computed together, from the last to the first."""
        together = at_once(
            n,
            networks.widths,
            device=x.device.type,
            networks=networks.alpha.shape[:-1].numel(),
            factors=None if ranks.size == 1 else by_factors,
        )
        if update.needs_norm or together:
            yield list(layers())[::-1]
        else:
            yield from ([layer] for layer in layers())

    R: Tensor | None = None
    found: list[Tensor] = []
    squares: list[Tensor] = []
    soft_ranks: list[Tensor] = []
    for group in groups():
        statistics = _statistics(group, networks, ranks, n, R)
        R = statistics.R
        direction = direct(statistics)
        found.insert(0, direction.numbers)
        if measure or update.needs_norm:
            squares.insert(0, statistics.gradient_squares)
        if measure:
            soft_ranks.insert(0, statistics.soft_ranks)
        if update.needs_norm:
            direction = direction.times(update.factors(squares[0]))
        _apply(group, networks, update, direction, statistics.layers, n)
        # What was used is freed before the next layer's is made.
        group.clear()
    return Taken(
        total,
        n,
        found[0] if len(found) == 1 else torch.cat(found, -1),
        torch.cat(squares, -1).sum(-1).sqrt() if squares else None,
        torch.cat(soft_ranks, -1) if measure else None,
    )


def _statistics(group: list[Layer], networks: Networks, ranks: Ranks, n: int, R: Tensor | None) -> Statistics:
    """Statistics of successive layers over the global minibatch of ``n`` samples; R is D_l."""
    span, count = slice(group[0].k - 1, group[-1].k), len(group)
    delta, h = zip(*(layer.factors for layer in group), strict=True)
    squares = square_norms([*h, *delta])
    networks.sum(squares[..., count:])
    here = [column for column, layer in enumerate(group) if not layer.whole]
    if here:
        both = here + [column + count for column in here]
        for column, total in zip(both, ranks.sum(torch.stack([squares[c] for c in both])), strict=True):
            squares[column] = total
    squares /= n
    F, D = squares[..., :count].mul_(entries(span, networks.alpha_squares)), squares[..., count:]
    dtype, whole = torch.promote_types(h[0].dtype, torch.float32), not here
    return statistics_of(lambda: group, networks, span, n, F, D, R=R, dtype=dtype, whole=whole)


def _apply(
    group: list[Layer], networks: Networks, update: Update, direction: Direction, span: slice, n: int
) -> None:
    """Update this process's rows of the weights of ``group`` by ``direction``."""
    numbers = networks.numbers(direction.numbers * entries(span, networks.alpha) / n)
    for i, (layer, number) in enumerate(zip(group, numbers, strict=True)):
        update.apply(layer.k, networks.local(layer.k), partial(_add, layer, direction, i, number))


def _add(
    layer: Layer,
    direction: Direction,
    i: int,
    number: Number,
    target: Tensor,
    *,
    keep: Number,
    factor: Number,
) -> None:
    """Target ← keep · target + factor · number · δ_kᵀ K_k h_{k−1}, for the i-th layer of ``direction``."""
    rows = direction.rows(i)
    if rows is None and direction.matrix(i) is None:
        rows = layer.gradient
    if rows is not None:
        add_scaled(keep_scaled(target, keep), rows, number * factor)
    elif layer.gradient is None:
        left, right = direction.factors(*layer.factors, i)
        add_product(target, left, right, keep=keep, factor=number * factor)
    else:
        raise UserError(
            "sharding.exchange: 'gradients' does not fit a direction of matrices; allowed: factors"
        )
