"""Frobenius decay: the gradient of λ/2 ‖W‖_F² for layers W = U Vᵀ (arXiv 2105.01029; theory §11)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from scaled_sgd.steps.networks import Networks
from scaled_sgd.steps.update import Number


@dataclass(frozen=True)
class FrobeniusDecay:
    """λc² U (VᵀV) for U and λc² (UᵀU) Vᵀ for Vᵀ, with c U Vᵀ the W that the factors stand for.

    c is the product of their multipliers over that of the layer without factors, 1 under SP.

    Attributes:
        networks: the networks.
        number: λ; (B, 1, 1) for a stack.
        grams: for every factor, c² times the Gram matrix (…, r, r) of the other one before the step.
        firsts: V (…, m_{k−1}, r) of each Vᵀ, complete; a view of the weights on one process.
    """

    networks: Networks
    number: Number
    grams: Mapping[int, Tensor]
    firsts: Mapping[int, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, networks: Networks, number: Number) -> "FrobeniusDecay":
        """The decay of weights as they are now. Collective if processes hold rows of them."""
        grams: dict[int, Tensor] = {}
        firsts: dict[int, Tensor] = {}
        for k, square in networks.product_squares.items():
            U = networks.local(k + 1)
            V = firsts[k] = networks.gather(networks.local(k).mT, k)
            own = square.to(V.dtype)
            grams[k + 1] = (V.mT @ V).mul_(own)
            grams[k] = networks.sum(U.mT @ U).mul_(own)
        return cls(networks, number, grams, firsts)

    def pull(self, k: int) -> Tensor | None:
        """∂/∂W_k of ½ Σ‖W‖_F², this process's rows; None where W_k is no factor, and the gradient W_k."""
        if k not in self.grams:
            return None
        if k in self.firsts:
            return self.networks.own(self.firsts[k] @ self.grams[k], k).mT
        return self.networks.local(k) @ self.grams[k]
