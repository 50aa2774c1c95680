"""Steps of several networks of one shape at once: stacked weights, batched products, ξ a network.

The formulas are those of :mod:`scaled_sgd.steps.fused` with one dimension more, in front. (Theory §2, §3; the
arrangement is ours.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from scaled_sgd.steps.divergence import witness
from scaled_sgd.steps.fused import gradient_factor
from scaled_sgd.steps.rules import get_rule
from scaled_sgd.steps.signals import through_activation
from scaled_sgd.study.run import Run

NEVER = float(2**62)
"""The code of a network that was always finite."""


@dataclass
class Each:
    """What differs between the networks and what becomes of them, one a row.

    Attributes:
        alpha: α_k (B, l).
        omega: ω_k (B, l).
        rates: η of every step (B, steps).
        rule: which of the stack's rules (B,).
        static: whether ξ stays that of the first step (B,).
        momentum: μ (B,).
        weight_decay: λ (B,).
        clip_norm: inf for none (B,).
        normalize: whether the gradient is divided by its norm (B,).
        frozen: ξ_k (B, l) of the first step.
        largest: minibatch loss (B,); not finite for ever once one was not.
        first_bad: step · (l + 2) + layer of the first number that was not finite (B,).
    """

    alpha: Tensor
    omega: Tensor
    rates: Tensor
    rule: Tensor
    static: Tensor
    momentum: Tensor
    weight_decay: Tensor
    clip_norm: Tensor
    normalize: Tensor
    frozen: Tensor
    largest: Tensor
    first_bad: Tensor

    def keep(self, rows: Tensor) -> "Each":
        """Those of some networks."""
        return Each(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Taken:
    """What a step found of each network: mean loss (B,), ξ (B, l), and ‖G‖_F (B,) where asked for."""

    loss: Tensor
    scales: Tensor
    grad_norm: Tensor | None


class Stack:
    """Networks of one shape that step together.

    Their weights move into the stack; the networks of ``runs`` become views of it, for others to look at.

    Args:
        runs: alike but for what :class:`Each` holds.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        first, device = runs[0], runs[0].device
        self.runs = list(runs)
        self._depth, self._phi = first.model.depth, first.model.activation
        optims = [run.config.optim for run in runs]
        names = list(dict.fromkeys(run.config.scaling.rule for run in runs))
        self._rules = [get_rule(name) for name in names]
        self._has_momentum = any(optim.momentum for optim in optims)
        self._has_decay = any(optim.weight_decay for optim in optims)
        self._is_limited = any(optim.limits_gradient for optim in optims)
        self.weights = [
            torch.stack([run.model.scaled_layers[k].weight.detach() for run in runs])
            for k in range(self._depth)
        ]
        self._velocities = [torch.zeros_like(W) for W in self.weights] if self._has_momentum else []

        def column(values: Sequence[object], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        layers = [run.model.scaled_layers for run in runs]
        self.each = Each(
            alpha=column([[layer.multiplier for layer in own] for own in layers]),
            omega=column([[layer.layer_weight for layer in own] for own in layers]),
            rates=column([[run.schedule(step) for step in range(run.steps)] for run in runs]),
            rule=column([names.index(run.config.scaling.rule) for run in runs], torch.int64),
            static=column([run.config.scaling.static for run in runs], torch.bool),
            momentum=column([optim.momentum for optim in optims]),
            weight_decay=column([optim.weight_decay for optim in optims]),
            clip_norm=column([optim.clip_norm or math.inf for optim in optims]),
            normalize=column([optim.normalize for optim in optims], torch.bool),
            frozen=column([[0.0] * self._depth for _ in runs]),
            largest=column([0.0 for _ in runs]),
            first_bad=column([NEVER for _ in runs]),
        )
        self._codes = torch.arange(1, self._depth + 2, dtype=torch.float64, device=device)
        self._lend()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some networks alone; their order stays."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.weights[0].device)
        self.runs = [self.runs[row] for row in rows]
        self.weights = [W.index_select(0, index) for W in self.weights]
        self._velocities = [v.index_select(0, index) for v in self._velocities]
        self.each = self.each.keep(index)
        self._lend()

    def see(self, numbers: Tensor, step: int) -> None:
        """Note numbers of ``step`` (B, ·): witnesses of z_1..z_l and the loss, or the last few of these."""
        codes = self._codes[-numbers.shape[1] :] + step * (self._depth + 2)
        bad = torch.where(numbers.isfinite(), NEVER, codes).amin(1)
        self.each.first_bad = torch.minimum(self.each.first_bad, bad)

    @torch.no_grad()
    def take(self, step: int, x: Tensor, y: Tensor, *, measure_gradient: bool) -> Taken:
        """One step of every network, without a wait for the device.

        Args:
            step: its number.
            x: inputs (B, n, m_0), or (n, m_0) of all networks.
            y: targets, likewise (B, n) or (n,), (B, n, m_l) or (n, m_l).
            measure_gradient: find the norms of the gradients.
        """
        each, n = self.each, x.shape[-2]
        if x.ndim == 2:
            x, y = x.expand(len(self.runs), *x.shape), y.expand(len(self.runs), *y.shape)
        h, gates, f, witnesses = self._forward(x)
        losses, residual = self.runs[0].loss.value_and_gradient(f, y)
        delta = self._backward(residual, gates)
        loss = losses.sum(1, dtype=torch.float64) / n
        self.see(torch.stack([*witnesses, loss], 1), step)
        each.largest = torch.maximum(each.largest, loss)
        scales = self._scales(step, h, delta, n)
        factors, norm = scales * each.alpha / n, None
        if measure_gradient or self._is_limited:
            norm = self._gradient_norm(h, delta, n)
            normalized = gradient_factor(norm, clip_norm=None, normalize=True)
            clipped = gradient_factor(norm, clip_norm=each.clip_norm, normalize=False)
            factors = factors * torch.where(each.normalize, normalized, clipped)[:, None]
        self._update(step, factors, h, delta)
        return Taken(loss, scales, norm)

    def _lend(self) -> None:
        """Have every run's network look at its part of the stack."""
        for row, run in enumerate(self.runs):
            for layer, W in zip(run.model.scaled_layers, self.weights, strict=True):
                layer.weight.data = W[row]
            if self._velocities:
                run.velocity = partial(self._velocity, row)

    def _velocity(self, row: int, k: int) -> Tensor:
        """v_k of one network."""
        return self._velocities[k - 1][row]

    def _forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, list[Tensor]]:
        """h_0..h_{l−1}, gates, f, witnesses of z_1..z_l; as :func:`~.diagnostics.signals.forward`."""
        model = self.runs[0].model
        sign_survives = self._phi.positive_slope > 0 and self._phi.negative_slope >= 0
        h, gates, witnesses = [x], [], []
        for k, W in enumerate(self.weights, start=1):
            z = self._product(h[k - 1], W.transpose(1, 2), k)
            witnesses.append(witness(z, (1, 2)))
            if k < self._depth:
                h.append(model.apply_activation(z))
                gates.append(h[k] if sign_survives else z)
        return h, gates, z, witnesses

    def _backward(self, residual: Tensor, gates: list[Tensor]) -> list[Tensor]:
        """δ_1..δ_l."""
        delta = [residual]
        for k in range(self._depth, 1, -1):
            below = self._product(delta[0], self.weights[k - 1], k)
            delta.insert(0, through_activation(self._phi, below, gates[k - 2]))
        return delta

    def _product(self, a: Tensor, b: Tensor, k: int) -> Tensor:
        """α_k a b."""
        # As a pass of its own also where all α_k are one: rounding does not depend on the other networks.
        return torch.bmm(a, b).mul_(_spread(self.each.alpha[:, k - 1], a))

    def _scales(self, step: int, h: list[Tensor], delta: list[Tensor], n: int) -> Tensor:
        """ξ (B, l)."""
        each = self.each
        F, D = (torch.stack([_square(t) for t in signals], 1) / n for signals in (h, delta))
        F = F * each.alpha.square()
        scales = torch.zeros_like(F)
        for number, rule in enumerate(self._rules):
            found = rule(F, D, D[:, -1:], each.omega, self._depth)
            scales = torch.where((each.rule == number)[:, None], found, scales)
        if step == 0:
            each.frozen = scales
        return torch.where(each.static[:, None], each.frozen, scales)

    def _gradient_norm(self, h: list[Tensor], delta: list[Tensor], n: int) -> Tensor:
        """‖(G_1, …, G_l)‖_F (B,), by Gram matrices where that is less work."""
        squares = []
        for signal, residual in zip(h, delta, strict=True):
            m_in, m_out = signal.shape[2], residual.shape[2]
            if n * (m_in + m_out) > m_in * m_out:
                squares.append(_square(torch.bmm(residual.transpose(1, 2), signal)))
            else:
                grams = (torch.bmm(t, t.transpose(1, 2)) for t in (signal, residual))
                squares.append(torch.mul(*grams).sum((1, 2), dtype=torch.float64))
        return ((self.each.alpha / n).square() * torch.stack(squares, 1)).sum(1).sqrt()

    def _update(self, step: int, factors: Tensor, h: list[Tensor], delta: list[Tensor]) -> None:
        """W ← W − η v; ``factors`` (B, l) times δᵀ h are the ξ_k G_k."""
        each, rate = self.each, self.each.rates[:, step]
        if not self._has_momentum:
            factors = factors * -rate[:, None]
        for k, W in enumerate(self.weights):
            scaled = (delta[k] * _spread(factors[:, k], W)).transpose(1, 2)
            if not self._has_momentum:
                if self._has_decay:
                    W.mul_(_spread(1 - rate * each.weight_decay, W))
                W.baddbmm_(scaled, h[k])
                continue
            v = self._velocities[k].mul_(_spread(each.momentum, W)).baddbmm_(scaled, h[k])
            if self._has_decay:
                v.addcmul_(W, _spread(each.weight_decay, W))
            W.addcmul_(v, _spread(rate, W), value=-1)


def _spread(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers (B,) as (B, 1, 1) in the type of ``like``."""
    return numbers.to(like.dtype).view(-1, 1, 1)


def _square(signals: Tensor) -> Tensor:
    """‖·‖² of each of signals (B, n, m), shape (B,), float64."""
    norm: Tensor = torch.linalg.vector_norm(signals, dim=(1, 2))
    return norm.double().square()
