"""Several networks of one shape as one computation with batched products (theory §2, §3; ours)."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from scaled_sgd.core.activations import Activation
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.core.products import matmul
from scaled_sgd.steps.update import Number


class Stack:
    """B networks of one shape and activation; the stack takes over their weights.

    The networks' weights become views into the stack, so that other code can read them.

    Args:
        models: the networks.
        factors: type of signals and weights as factors of products; that of the weights if None.

    Attributes:
        weights: W_1..W_l, each (B, m_k, m_{k−1}).
        alpha: α_k (B, l), float64.
        alpha_squares: α_k² (B, l), float64.
        omega: ω_k (B, l), float64.
    """

    def __init__(self, models: Sequence[HomogeneousMLP], *, factors: torch.dtype | None = None) -> None:
        self.models = list(models)
        layers = [model.scaled_layers for model in models]
        self.weights = [
            torch.stack([layer.weight.detach() for layer in each]) for each in zip(*layers, strict=True)
        ]
        self.alpha, self.omega = (
            torch.tensor([[getattr(layer, name) for layer in own] for own in layers], dtype=torch.float64).to(
                self.weights[0].device
            )
            for name in ("multiplier", "layer_weight")
        )
        self.alpha_squares = self.alpha.square()
        self._factors = factors or self.weights[0].dtype
        self._lend()

    def __len__(self) -> int:
        return len(self.models)

    @property
    def depth(self) -> int:
        """Number of weight matrices l."""
        return len(self.weights)

    @property
    def widths(self) -> tuple[int, ...]:
        """(m_0, …, m_l)."""
        return self.models[0].widths

    @property
    def activation(self) -> Activation:
        """φ."""
        return self.models[0].activation

    def activation_at(self, k: int) -> Activation:
        """What is applied to z_k."""
        return self.models[0].activation_at(k)

    @cached_property
    def product_squares(self) -> dict[int, Tensor]:
        """c² (B, 1, 1) of each Vᵀ's place, where c U Vᵀ is the W that the factors stand for."""
        found = [model.product_squares for model in self.models]
        return {k: self.alpha.new_tensor([own[k] for own in found])[:, None, None] for k in found[0]}

    def keep(self, rows: Sequence[int]) -> Tensor:
        """Continue with some networks only, in the same order. Returns their indices, on the device."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.weights[0].device)
        self.models = [self.models[row] for row in rows]
        self.weights = [W.index_select(0, index) for W in self.weights]
        self.alpha, self.omega = self.alpha[index], self.omega[index]
        self.alpha_squares = self.alpha.square()
        vars(self).pop("product_squares", None)
        self._lend()
        return index

    @property
    def processes(self) -> int:
        """One process holds everything."""
        return 1

    def start(self, x: Tensor) -> Tensor:
        """h_0 (B, n, m_0) from samples of each network, or from samples (n, m_0) for all."""
        x = self.factor(x)
        return x if x.ndim == 3 else x.expand(len(self), *x.shape)

    def factor(self, t: Tensor) -> Tensor:
        """``t`` as a factor of products."""
        return t.to(self._factors)

    def preactivation(self, h: Tensor, k: int) -> Tensor:
        """z_k = α_k h W_kᵀ (B, n, m_k)."""
        W = self.factor(self.weights[k - 1])
        if k > 1 and W is not self.weights[k - 1]:
            self._waiting[k] = W
        return self._product(h, W.transpose(1, 2), k)

    def pulled_back(self, delta: Tensor, k: int) -> Tensor:
        """α_k δ_k W_k (B, n, m_{k−1})."""
        W = self._waiting.pop(k) if k in self._waiting else self.factor(self.weights[k - 1])
        return self._product(delta, W, k)

    def own(self, t: Tensor, k: int) -> Tensor:
        """All columns."""
        return t

    def gather(self, t: Tensor, k: int) -> Tensor:
        """All columns."""
        return t

    def local(self, k: int) -> Tensor:
        """W_k (B, m_k, m_{k−1})."""
        return self.weights[k - 1]

    def check_in_place(self) -> None:
        """No-op: the stack holds the weights."""

    def sum(self, t: Tensor) -> Tensor:
        """No-op: one process holds everything."""
        return t

    def numbers(self, values: Tensor) -> list[Number]:
        """``values`` (B, layers) of each layer as (B, 1, 1)."""
        return list(values[..., None, None].unbind(1))

    def _product(self, a: Tensor, b: Tensor, k: int) -> Tensor:
        # A separate pass even if all α_k are 1: rounding must not depend on the other networks.
        product = matmul(a, b)
        return product.mul_(self.alpha[:, k - 1, None, None].to(product.dtype))

    @cached_property
    def _waiting(self) -> dict[int, Tensor]:
        """Weights as factors, by layer, that the forward pass rounded and the backward pass takes."""
        return {}

    def _lend(self) -> None:
        for row, model in enumerate(self.models):
            for layer, W in zip(model.scaled_layers, self.weights, strict=True):
                layer.weight.data = W[row]
