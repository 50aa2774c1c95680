"""A training step without autograd and without gradients: each W_k takes its update in place.

δ_{k−1} needs W_k as it was, so the order within the backward pass is: δ_{k−1} first, then
W_k ← (1 − ηλ) W_k − η ξ_k (α_k / n) δ_kᵀ h_{k−1} as one accumulating matrix product. Nothing of a weight's
size is made. Over several processes a layer's factors (h_{k−1}, δ_k) of all samples are gathered,
n (m_k + m_{k−1}) numbers instead of the m_k m_{k−1} of its gradient, and multiplied on every process; where
processes hold rows of W_k, activations move and nothing else. (Theory §2, §3, §6; the arrangement is ours.)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.diagnostics.signals import backward, forward
from scaled_sgd.errors import UserError
from scaled_sgd.losses import Loss
from scaled_sgd.model import HomogeneousMLP
from scaled_sgd.scaling import Rule
from scaled_sgd.sharding import Partition, Ranks, holds_rows, is_whole
from scaled_sgd.signal_norms import square_norm

Scale = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""ξ_k () of layer k = 1..l from F_k (), D_k () and R (), float64."""


def scale_by(rule: Rule, model: HomogeneousMLP) -> Scale:
    """A scaling rule, one layer at a time."""
    omega = [torch.tensor(layer.layer_weight, dtype=torch.float64) for layer in model.scaled_layers]

    def scale(k: int, F: Tensor, D: Tensor, R: Tensor) -> Tensor:
        return rule(F, D, R, omega[k - 1].to(R.device), len(omega))

    return scale


def scale_frozen(scales: Tensor) -> Scale:
    """Scales (l,) that stay as they are."""
    return lambda k, F, D, R: scales[k - 1]


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


def gradient_factor(norm: Tensor, *, clip_norm: float | None, normalize: bool) -> Tensor:
    """1/‖G‖ for normalised SGD, else min(1, clip_norm / (‖G‖ + 1e-6)), 1 without clipping; ()."""
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
    """Layer k's G_k = (α_k/n) residualᵀ signal, as factors or, where ``gradient`` is there, without α_k/n."""

    k: int
    xi: Tensor
    multiplier: float
    signal: Tensor
    residual: Tensor
    gradient: Tensor | None

    def square(self) -> Tensor:
        """‖G_k‖_F² of the rows here, by Gram matrices where that is less work."""
        if self.gradient is not None:
            return self.multiplier**2 * square_norm(self.gradient)
        h, delta = self.signal, self.residual
        if len(h) * (h.shape[1] + delta.shape[1]) > h.shape[1] * delta.shape[1]:
            return self.multiplier**2 * square_norm(delta.T @ h)
        return self.multiplier**2 * ((h @ h.T) * (delta @ delta.T)).sum(dtype=torch.float64)

    def add_to(self, target: Tensor, *, keep: float, factor: float, xi: Tensor) -> None:
        """Target ← keep · target + factor · ξ G_k, in place."""
        if target.device.type == "cpu":
            factor, scaled = factor * float(xi), None
        else:
            scaled = xi
        if self.gradient is not None:
            gradient = self.gradient if scaled is None else self.gradient.mul_(scaled)
            (target if keep == 1 else target.mul_(keep)).add_(gradient, alpha=factor * self.multiplier)
            return
        residual = self.residual if scaled is None else self.residual.mul_(scaled)
        target.addmm_(residual.T, self.signal, beta=keep, alpha=factor * self.multiplier)


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

    The same numbers as :class:`~scaled_sgd.optim.ScaledSGD` by autograd.

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
        see: called with each z_k summed up, a tensor (), and k.

    Raises:
        UserError: the weights do not lie in rows over ``partition.ranks``, or are narrower than float32.
    """
    _check(partition)
    ranks = Ranks.alone() if ranks is None else ranks
    sizes = ranks.counts(len(x), x.device) if sizes is None else list(sizes)
    n, depth = sum(sizes), partition.depth
    h, gate, f = forward(partition, x, see=see)
    total = loss.value(f, y).sum(dtype=torch.float64)
    residual = loss.gradient(f, y)
    R = ranks.sum(square_norm(residual)) / n
    scales = torch.empty(depth, dtype=torch.float64, device=x.device)

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
            d = partition.sum(square_norm(own))
            squares = torch.stack((square_norm(signal), d))
            F, D = ((squares if factors else ranks.sum(squares)) / n).unbind()
            alpha = partition.multiplier(k)
            scales[k - 1] = xi = scale(k, alpha**2 * F, D, R)
            gradient = None if factors or ranks.size == 1 else ranks.sum(own.T @ signal)
            yield _Layer(k, xi, alpha / n, signal, own, gradient)

    found: Iterable[_Layer] = list(layers()) if update.needs_norm else layers()
    square = torch.zeros((), dtype=torch.float64, device=x.device)
    shrink: Tensor | None = None
    if update.needs_norm:
        square = partition.sum(torch.stack([layer.square() for layer in found]).sum())
        shrink = update.factor(square.sqrt())
    elif measure_gradient:
        found = _adding(found, square)
    for layer in found:
        _apply(layer, partition.local(layer.k), update, layer.xi if shrink is None else layer.xi * shrink)
    if measure_gradient and not update.needs_norm:
        square = partition.sum(square)
    norm = square.sqrt() if measure_gradient or update.needs_norm else None
    return Step(total, n, scales, norm)


def _check(partition: Partition) -> None:
    """Refuse weights that could not be updated where they lie."""
    for k, layer in enumerate(partition.model.scaled_layers, start=1):
        weight = layer.weight
        if weight.dtype != partition.dtype:
            raise UserError(f"model: layer {k} is {weight.dtype}; allowed: float32, float64")
        alone = partition.ranks.size == 1 and is_whole(weight)
        if not (alone or holds_rows(weight, partition.ranks)):
            raise UserError(
                f"model: the rows of layer {k} do not lie on {partition.ranks.size} processes; allowed: "
                "FSDP2 and tensor-parallel shards, or a whole network on one"
            )


def _adding(layers: Iterable[_Layer], square: Tensor) -> Iterator[_Layer]:
    for layer in layers:
        square += layer.square()
        yield layer


def _apply(layer: _Layer, W: Tensor, update: Update, xi: Tensor) -> None:
    """Update this process's rows of W_k."""
    xi = xi.to(W.dtype)
    if update.momentum == 0:
        layer.add_to(W, keep=1 - update.lr * update.weight_decay, factor=-update.lr, xi=xi)
        return
    assert update.velocity is not None
    v = update.velocity(layer.k)
    layer.add_to(v, keep=update.momentum, factor=1.0, xi=xi)
    if update.weight_decay != 0:
        v.add_(W, alpha=update.weight_decay)
    W.add_(v, alpha=-update.lr)
