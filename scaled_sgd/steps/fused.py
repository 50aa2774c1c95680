"""A training step without autograd and without gradients: each W_k takes its update in place.

δ_{k−1} needs W_k as it was, so the order within the backward pass is: δ_{k−1} first, then
W_k ← (1 − ηλ) W_k − η ξ_k (α_k / n) δ_kᵀ h_{k−1} as one accumulating matrix product. Nothing of a weight's
size is made. Over several processes a layer's factors (h_{k−1}, δ_k) of all samples are gathered,
n (m_k + m_{k−1}) numbers instead of the m_k m_{k−1} of its gradient, and multiplied on every process; where
processes hold rows of W_k, activations move and nothing else. (Theory §2, §3, §6; the arrangement is ours.)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import Loss
from scaled_sgd.parallel import Partition, Ranks, holds_rows, is_whole
from scaled_sgd.steps.hook_sums import square_norm, square_norms
from scaled_sgd.steps.signals import backward, forward

Scale = Callable[[slice, Tensor, Tensor, Tensor], Tensor]
"""ξ of the layers that a slice of 0..l−1 takes, from their F, D and from R (), all float64, such as
:meth:`~scaled_sgd.steps.hook.DepthwiseScaling.predict_layers`."""

HELD = 1 << 20
"""Where δ_1..δ_l are at most so many numbers they are held at once, and all ξ computed in one go."""


@dataclass(frozen=True)
class Update:
    """v_k ← μ v_k + ξ_k G_k + λ W_k, then W_k ← W_k − η v_k (theory §3).

    Attributes:
        lr: η.
        weight_decay: λ, not scaled by ξ.
        momentum: μ.
        velocity: v_k of layer k, this process's rows of it; needed where μ > 0.
        clip_norm: largest norm of the whole gradient, before scaling.
        normalize: divide the whole gradient by its norm, before scaling.
    """

    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    velocity: Callable[[int], Tensor] | None = None
    clip_norm: float | None = None
    normalize: bool = False

    @property
    def needs_norm(self) -> bool:
        """Whether no layer can be updated before all are differentiated: δ_1..δ_l are then held at once."""
        return self.normalize or self.clip_norm is not None

    def factor(self, norm: Tensor) -> Tensor:
        """What the gradient of norm ``norm`` () is multiplied by."""
        return gradient_factor(norm, clip_norm=self.clip_norm, normalize=self.normalize)


def gradient_factor(norm: Tensor, *, clip_norm: float | Tensor | None, normalize: bool) -> Tensor:
    """1/‖G‖ for normalised SGD, else min(1, clip_norm / (‖G‖ + 1e-6)), 1 without clipping."""
    if normalize:
        return 1 / norm.clamp(min=1e-30)
    if clip_norm is None:
        return torch.ones_like(norm)
    return (clip_norm / (norm + 1e-6)).clamp(max=1.0)


@dataclass(frozen=True)
class Step:
    """What a step found.

    Attributes:
        loss: sum of ℓ over this process's samples before the update, (), float64; over all samples where
            processes hold rows of the weights.
        n: samples of the global minibatch.
        scales: ξ (l,), float64.
        grad_norm: ‖(G_1, …, G_l)‖_F () before clipping and scaling, float64; None unless asked for or needed.
    """

    loss: Tensor
    n: int
    scales: Tensor
    grad_norm: Tensor | None


@dataclass
class _Layer:
    """Layer k's G_k = (α_k/n) residualᵀ signal, as factors or, where ``gradient`` is there, without α_k/n.

    ``whole``: the factors are those of the global minibatch.
    """

    k: int
    multiplier: float
    signal: Tensor
    residual: Tensor
    gradient: Tensor | None
    whole: bool

    def square(self) -> Tensor:
        """‖G_k‖_F² of the rows here, by Gram matrices where that is less work."""
        if self.gradient is not None:
            return self.multiplier**2 * square_norm(self.gradient)
        h, delta = self.signal, self.residual
        if len(h) * (h.shape[1] + delta.shape[1]) > h.shape[1] * delta.shape[1]:
            return self.multiplier**2 * square_norm(delta.T @ h)
        return self.multiplier**2 * ((h @ h.T) * (delta @ delta.T)).sum(dtype=torch.float64)

    def add_to(self, target: Tensor, *, keep: float, factor: float, xi: Tensor | float) -> None:
        """Target ← keep · target + factor · ξ G_k, in place; ξ is a tensor () where that saves a wait."""
        factor *= self.multiplier
        scaled = None
        if isinstance(xi, Tensor):
            scaled = xi.to(target.dtype)
        else:
            factor *= xi
        if self.gradient is not None:
            gradient = self.gradient if scaled is None else self.gradient.mul_(scaled)
            (target if keep == 1 else target.mul_(keep)).add_(gradient, alpha=factor)
            return
        residual = self.residual if scaled is None else self.residual.mul_(scaled)
        target.addmm_(residual.T, self.signal, beta=keep, alpha=factor)


@torch.no_grad()
def fused_step(
    partition: Partition,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss,
    scale: Scale,
    update: Update,
    ranks: Ranks | None = None,
    sizes: Sequence[int] | None = None,
    by_factors: Sequence[bool] | None = None,
    measure_gradient: bool = False,
    see: Callable[[Tensor, int], object] | None = None,
) -> Step:
    """One step of scaled SGD on this process's samples x (n_r, m_0), y of the global minibatch. Collective.

    The same numbers as :class:`~scaled_sgd.steps.optimizer.ScaledSGD` by autograd.

    Args:
        partition: the network. Processes of ``partition.ranks`` hold rows of it and work on the same samples.
        x: this process's samples; numbers may differ, 0 too.
        y: their targets.
        loss: ℓ.
        scale: ξ.
        update: what is done with ξ_k G_k.
        ranks: processes that work on different samples; this one alone when None.
        sizes: how many samples each of them has; asked for when None.
        by_factors: for each layer, whether factors move between ``ranks`` instead of gradients; None: all.
        measure_gradient: find the norm of the whole gradient.
        see: called with a :func:`~scaled_sgd.steps.divergence.witness` () of each z_k, and k; on a CPU,
            unless the activation hides −∞ as relu does, only where the loss or f is not finite: they are not
            where any z_k is not.

    Raises:
        UserError: the weights do not lie in rows over ``partition.ranks``, or are narrower than float32.
    """
    _check(partition)
    ranks = Ranks.alone() if ranks is None else ranks
    sizes = ranks.counts(len(x), x.device) if sizes is None else list(sizes)
    n, depth = sum(sizes), partition.depth
    on_cpu = x.device.type == "cpu"
    phi = partition.model.activation
    late = see is not None and on_cpu and phi.positive_slope != 0 and phi.negative_slope != 0
    h, gate, f = forward(partition, x, see=None if late else see)
    losses, residual = loss.value_and_gradient(f, y)
    total = losses.sum(dtype=torch.float64)
    if late and not (math.isfinite(total.item()) and math.isfinite(f.sum().item())):
        forward(partition, x, see=see)

    def layers() -> Iterator[_Layer]:
        """From the last to the first, each when δ_{k−1} is known and W_k no longer needed."""
        delta = partition.own(residual, depth).contiguous()
        for k in range(depth, 0, -1):
            signal, own = h.pop(), delta
            factors = ranks.size > 1 and (by_factors is None or by_factors[k - 1])
            later = [ranks.gather_later(t, sizes) for t in (signal, own)] if factors else []
            if k > 1:
                delta = backward(partition, own, gate.pop(k - 1), k)
            if factors:
                signal, own = (wait() for wait in later)
            whole = factors or ranks.size == 1
            gradient = None if whole else ranks.sum(own.T @ signal)
            yield _Layer(k, partition.multiplier(k) / n, signal, own, gradient, whole)

    def groups() -> Iterator[list[_Layer]]:
        """Layers whose ξ and updates are computed together, from the last to the first."""
        if update.needs_norm or n * sum(partition.model.widths[1:]) <= HELD:
            yield list(layers())
        else:
            yield from ([layer] for layer in layers())

    R: Tensor | None = None
    scales: list[Tensor] = []
    square = torch.zeros((), dtype=torch.float64, device=x.device)
    for group in groups():
        F, D = _mean_squares(group, partition, ranks, n)
        R = D[-1] if R is None else R
        xi = scale(slice(group[-1].k - 1, group[0].k), F, D, R)
        scales.insert(0, xi)
        if measure_gradient or update.needs_norm:
            square += torch.stack([layer.square() for layer in group]).sum()
        if update.needs_norm:
            square = partition.sum(square)
            xi = xi * update.factor(square.sqrt())
        factors = xi.tolist() if on_cpu else list(xi)
        for layer, factor in zip(group, reversed(factors), strict=True):
            _apply(layer, partition.local(layer.k), update, factor)
    if measure_gradient and not update.needs_norm:
        square = partition.sum(square)
    norm = square.sqrt() if measure_gradient or update.needs_norm else None
    return Step(total, n, torch.cat(scales), norm)


def _mean_squares(group: list[_Layer], partition: Partition, ranks: Ranks, n: int) -> Tensor:
    """F_k and D_k of the layers of ``group`` over the global minibatch of ``n``, shape (2, ·), by k."""
    signals, residuals = ([getattr(layer, name) for layer in group] for name in ("signal", "residual"))
    squares = square_norms(signals[::-1] + residuals[::-1]).view(2, -1)
    partition.sum(squares[1])
    here = [column for column, layer in enumerate(reversed(group)) if not layer.whole]
    if len(here) == len(group):
        ranks.sum(squares)
    else:
        for column in here:
            squares[:, column] = ranks.sum(squares[:, column].contiguous())
    squares /= n
    squares[0] *= partition.alpha_squares[group[-1].k - 1 : group[0].k]
    return squares


def _check(partition: Partition) -> None:
    """Refuse weights that could not be updated where they lie."""
    if partition.whole is not None:
        return
    for k, layer in enumerate(partition.layers, start=1):
        weight = layer.weight
        if weight.dtype != partition.dtype:
            raise UserError(f"model: layer {k} is {weight.dtype}; allowed: float32, float64")
        alone = partition.ranks.size == 1 and is_whole(weight)
        if not (alone or holds_rows(weight, partition.ranks)):
            raise UserError(
                f"model: the rows of layer {k} do not lie on {partition.ranks.size} processes; allowed: "
                "FSDP2 and tensor-parallel shards, or a whole network on one"
            )


def _apply(layer: _Layer, W: Tensor, update: Update, xi: Tensor | float) -> None:
    """Update this process's rows of W_k."""
    if update.momentum == 0:
        layer.add_to(W, keep=1 - update.lr * update.weight_decay, factor=-update.lr, xi=xi)
        return
    assert update.velocity is not None
    v = update.velocity(layer.k)
    layer.add_to(v, keep=update.momentum, factor=1.0, xi=xi)
    if update.weight_decay != 0:
        v.add_(W, alpha=update.weight_decay)
    W.add_(v, alpha=-update.lr)
