"""The R-operator: directional derivatives of forward and backward signals (theory §5, §8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.operators.blocks import Block
from scaled_sgd.steps.signals import Signals

Part = Literal["hessian", "gauss_newton", "feature"]
"""H, its part G from moving outputs, or H − G from moving features."""


def check_part(name: object) -> None:
    """Refuse anything but a :data:`Part`."""
    if name not in get_args(Part):
        raise UserError(f"part: {name!r} is unknown; allowed: {', '.join(get_args(Part))}")


@dataclass(frozen=True)
class Slot:
    """One layer's part in a product.

    Attributes:
        block: the layer's storage.
        dual: V_k.
        out: receives the product's part.
        root: √ξ_k.
    """

    block: Block
    dual: Tensor
    out: Tensor
    root: float


def r_operator(s: Signals, slots: Sequence[Slot], *, part: Part, onto: float) -> None:
    """out_k ← onto · out_k + (Ξ^{1/2} C Ξ^{1/2} V)_k over the given signals, in coefficients.

    For C = H, with V_k = 0 in layers without a slot:

        Rz_k = α_k (√ξ_k h V_kᵀ + Rh_{k−1} W_kᵀ), Rh_k = D_k ∘ Rz_k, Rδ_l = ℓ''(Rf),
        (HV)_k = (α_k √ξ_k/n)(Rδ_kᵀ h + δ_kᵀ Rh), Rδ_{k−1} = α_k (Rδ_k W_k + √ξ_k δ_k V_k) ∘ D_{k−1},

    where a smooth φ adds α_k (δ_k W_k) ∘ φ″(z_{k−1}) ∘ Rz_{k−1} to Rδ_{k−1}. G leaves out the terms with δ,
    and H − G has Rδ_l = 0.

    Args:
        s: the signals.
        slots: layers in ascending order; two-sided blocks, except the first, for H and H − G, one-sided
            ones for G.
        part: C.
        onto: 0 or 1.
    """
    partition, last = s.partition, s.depth
    by_layer = {slot.block.k: slot for slot in slots}
    first = slots[0].block.k
    bent = {} if part == "gauss_newton" else s.bent
    turned: dict[int, Tensor] = {}
    Rh: Tensor | None = None
    for k in range(first, last + 1):
        Rz = _push(s, by_layer.get(k), Rh, k, onto=onto)
        if k in bent:
            turned[k] = partition.own(Rz, k)
        Rh = s.through_activation(Rz, k) if k < last else Rz
    assert Rh is not None
    Rdelta = partition.own(s.loss.hessian_product(s.f, Rh) if part != "feature" else 0 * Rh, last)
    for k in range(last, first - 1, -1):
        slot = by_layer.get(k)
        if slot is not None:
            block, scale = slot.block, partition.multiplier(k) * slot.root / s.total
            block.put_backward(s, slot.out, Rdelta, scale, 1.0 if block.both else onto)
        if k > first:
            Rdelta = s.own_through_activation(_pull(s, slot, Rdelta, k), k - 1)
            if k - 1 in bent:
                Rdelta.addcmul_(bent[k - 1], turned[k - 1])


def _push(s: Signals, slot: Slot | None, Rh: Tensor | None, k: int, *, onto: float) -> Tensor:
    """Rz_k (samples, m_k), complete on every process; puts the term δ_kᵀ Rh_{k−1}."""
    partition, alpha = s.partition, s.partition.multiplier(k)
    if slot is None:
        assert Rh is not None
        return partition.preactivation(Rh, k)
    Rz = slot.block.h_product(s, slot.dual)
    if Rh is None:
        return partition.gather(Rz * (alpha * slot.root), k)
    if slot.block.both:
        slot.block.put_forward(s, slot.out, Rh, alpha * slot.root / s.total, onto)
    Rz = torch.addmm(Rz, Rh, partition.local(k).T, beta=alpha * slot.root, alpha=alpha)
    return partition.gather(Rz, k)


def _pull(s: Signals, slot: Slot | None, Rdelta: Tensor, k: int) -> Tensor:
    """This process's columns of α_k (Rδ_k W_k + √ξ_k δ_k V_k), (samples, width(k − 1))."""
    partition, alpha = s.partition, s.partition.multiplier(k)
    if slot is None or not slot.block.both:
        return partition.pulled_back(Rdelta, k)
    product = slot.block.delta_product(s, slot.dual, Rdelta, alpha, alpha * slot.root)
    return partition.own(partition.sum(product), k - 1)
