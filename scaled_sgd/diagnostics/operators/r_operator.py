"""The R-operator: directional derivatives of forward and backward signals (theory §5)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scaled_sgd.diagnostics.operators.blocks import Block
from scaled_sgd.steps.signals import Signals


def r_operator(
    s: Signals,
    blocks: Sequence[Block],
    duals: Sequence[Tensor],
    outs: Sequence[Tensor],
    roots: Sequence[float],
    *,
    onto: float,
) -> None:
    """outs ← onto · outs + Ξ^{1/2} H Ξ^{1/2} V over the given signals, in coefficients.

    Rz_k = α_k (√ξ_k h V_kᵀ + Rh_{k−1} W_kᵀ), Rh_k = D_k ∘ Rz_k, Rδ_l = ℓ''(Rf),
    (HV)_k = (α_k √ξ_k/n)(Rδ_kᵀ h + δ_kᵀ Rh), Rδ_{k−1} = α_k (Rδ_k W_k + √ξ_k δ_k V_k) ∘ D_{k−1}.
    """
    partition = s.partition
    layers = list(zip(blocks, duals, outs, roots, strict=True))
    Rh: Tensor | None = None
    for block, dual, out, root in layers:
        k, alpha = block.k, partition.multiplier(block.k)
        Rz = block.h_product(s, dual)
        if Rh is None:
            Rz = Rz * (alpha * root)
        else:
            block.put_forward(s, out, Rh, alpha * root / s.total, onto)
            Rz = torch.addmm(Rz, Rh, partition.local(k).T, beta=alpha * root, alpha=alpha)
        Rz = partition.gather(Rz, k)
        Rh = s.through_activation(Rz, k) if k < s.depth else Rz
    assert Rh is not None
    Rdelta = partition.own(s.loss.hessian_product(s.f, Rh), s.depth)
    for block, dual, out, root in reversed(layers):
        k, alpha = block.k, partition.multiplier(block.k)
        block.put_backward(s, out, Rdelta, alpha * root / s.total, onto)
        if k > 1:
            product = partition.sum(block.delta_product(s, dual, Rdelta, alpha, alpha * root))
            Rdelta = s.own_through_activation(partition.own(product, k - 1), k - 1)
