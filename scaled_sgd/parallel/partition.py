"""A network and this process's slice of the rows of every W_k (theory §6)."""

import itertools
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor, nn

from scaled_sgd.core.activations import Activation
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import HomogeneousMLP, ScaledLinear
from scaled_sgd.core.products import scaled_product
from scaled_sgd.parallel import zero_weights
from scaled_sgd.parallel.family import foreign_part
from scaled_sgd.parallel.layout import (
    even_offsets,
    full_weight,
    holds_rows,
    is_fsdp,
    is_whole,
    local_shard,
    row_offsets,
    row_order,
    unwrap,
)
from scaled_sgd.parallel.ranks import Ranks


@cache
def constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers (…), float64, on a device: made once, since a copy to a GPU waits and cannot be captured."""
    # Whoever asks first may be in inference mode, whose tensors no later gradient may use.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float64).to(device, non_blocking=True)


def reshard(network: nn.Module) -> None:
    """Make FSDP2 free weights that a forward pass left gathered, so that all weights are row shards again."""
    for module in network.modules():
        if is_fsdp(module):
            module.reshard()


@dataclass(frozen=True)
class Partition:
    """A network and this process's slice of the rows of every W_k.

    A replica is divided evenly. The local rows of an FSDP2 or column-wise tensor-parallel shard, or of both
    combined (DTensors with Shard(0) over all processes), are used as they are. Any other layout (row-wise
    shards, ZeRO-3) is gathered one layer at a time and divided evenly.

    Attributes:
        model: the network, unwrapped.
        ranks: the processes, in the order of their slices.
        offsets: for each k = 0..l, the bounds of the slices of the m_k columns.
        dtype: type of all computations: that of the weights, at least float32.
        factors: type of signals and weights as factors of products: ``dtype``, or bfloat16, whose products
            are accumulated in float32.
    """

    model: HomogeneousMLP
    ranks: Ranks
    offsets: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    factors: torch.dtype

    @classmethod
    def of(
        cls, model: nn.Module, *, ranks: Ranks | None = None, factors: torch.dtype | None = None
    ) -> "Partition":
        """The partition of ``model`` in its current layout over ``ranks``; all processes if None.

        Raises:
            UserError: the model is not a HomogeneousMLP, or runs something else.
        """
        foreign = foreign_part(model)
        if foreign is not None:
            raise UserError(f"model: {foreign} is not available here; allowed: HomogeneousMLP")
        network = unwrap(model)
        assert isinstance(network, HomogeneousMLP)
        weights = [layer.weight for layer in network.scaled_layers]
        ranks = Ranks(order=row_order(weights[0])) if ranks is None else ranks
        reshard(network)
        weights = [layer.weight for layer in network.scaled_layers]
        offsets = [even_offsets(network.widths[0], ranks.size)]
        for width, weight in zip(network.widths[1:], weights, strict=True):
            rows = row_offsets(weight) if holds_rows(weight, ranks) else even_offsets(width, ranks.size)
            offsets.append(rows)
        dtype = torch.promote_types(weights[0].dtype, torch.float32)
        return cls(network, ranks, tuple(offsets), dtype, factors or dtype)

    @property
    def depth(self) -> int:
        """Number of weight matrices l."""
        return len(self.offsets) - 1

    @cached_property
    def layers(self) -> list[ScaledLinear]:
        """The network's layers; layer k at index k − 1."""
        return self.model.scaled_layers

    @cached_property
    def blank(self) -> Tensor:
        """A number () that is never read, for products with beta = 0."""
        return torch.empty((), dtype=self.dtype, device=self.device)

    @property
    def widths(self) -> tuple[int, ...]:
        """(m_0, …, m_l)."""
        return self.model.widths

    @property
    def processes(self) -> int:
        """Number of processes that hold different rows."""
        return self.ranks.size

    @property
    def activation(self) -> Activation:
        """φ."""
        return self.model.activation

    def activation_at(self, k: int) -> Activation:
        """What is applied to z_k."""
        return self.model.activation_at(k)

    @cached_property
    def product_squares(self) -> dict[int, Tensor]:
        """c² () of each Vᵀ's place, where c U Vᵀ is the W that the factors stand for."""
        return {k: self._constants([square])[0] for k, square in self.model.product_squares.items()}

    @cached_property
    def alpha(self) -> Tensor:
        """α_k (l,), float64, where the weights are."""
        return self._constants([layer.multiplier for layer in self.layers])

    @cached_property
    def alpha_squares(self) -> Tensor:
        """α_k² (l,), float64, where the weights are."""
        return self.alpha.square()

    @cached_property
    def omega(self) -> Tensor:
        """ω_k (l,), float64, where the weights are."""
        return self._constants([layer.layer_weight for layer in self.layers])

    def _constants(self, values: list[float]) -> Tensor:
        return constants(tuple(values), self.device)

    @cached_property
    def whole(self) -> list[Tensor] | None:
        """W_1..W_l if there is one process and each is an ordinary tensor of ``dtype``."""
        weights = [layer.weight for layer in self.layers]
        if self.ranks.size > 1 or not all(is_whole(W) and W.dtype == self.dtype for W in weights):
            return None
        return [W.detach() for W in weights]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.layers[0].weight.device

    @property
    def weight_bytes(self) -> int:
        """Size of all weights, over all processes."""
        widths = itertools.pairwise(self.model.widths)
        return sum(m_in * m_out for m_in, m_out in widths) * (torch.finfo(self.dtype).bits // 8)

    def columns(self, k: int) -> slice:
        """This process's slice of the m_k columns of z_k, that is, of the rows of W_k."""
        return slice(self.offsets[k][self.ranks.rank], self.offsets[k][self.ranks.rank + 1])

    def width(self, k: int) -> int:
        """Number of columns of z_k on this process."""
        own = self.columns(k)
        return int(own.stop - own.start)

    def multiplier(self, k: int) -> float:
        """α_k."""
        return self.layers[k - 1].multiplier

    def local(self, k: int) -> Tensor:
        """This process's rows of W_k, shape (width(k), m_{k−1}): a view if possible."""
        if self.whole is not None:
            return self.whole[k - 1]
        weight = self.layers[k - 1].weight
        if holds_rows(weight, self.ranks):
            return local_shard(weight).to(self.dtype)
        if zero_weights.is_partitioned(weight):
            return zero_weights.gathered(weight, self.columns(k)).to(self.dtype)
        return full_weight(weight)[self.columns(k)].to(self.dtype)

    def own(self, t: Tensor, k: int) -> Tensor:
        """This process's columns of ``t`` (…, m_k), a view."""
        return t if self.ranks.size == 1 else t[..., self.columns(k)]

    def gather(self, t: Tensor, k: int) -> Tensor:
        """The full (n, m_k) tensor from every process's columns."""
        if self.ranks.size == 1:
            return t
        return self.ranks.gather(t.T, [b - a for a, b in itertools.pairwise(self.offsets[k])]).T.contiguous()

    def sum(self, t: Tensor) -> Tensor:
        """Sum ``t`` over the processes, in place."""
        return self.ranks.sum(t)

    def start(self, x: Tensor) -> Tensor:
        """h_0 as a factor of products."""
        return self.factor(x)

    def factor(self, t: Tensor) -> Tensor:
        """``t`` as a factor of products."""
        return t.to(self.factors)

    def preactivation(self, h: Tensor, k: int) -> Tensor:
        """z_k = α_k h W_kᵀ (n, m_k), complete on every process."""
        W = self.factor(self.local(k))
        if k > 1 and self.factors != self.dtype:
            self._waiting[k] = W
        return self.gather(self._product(h, W.T, k), k)

    def pulled_back(self, delta: Tensor, k: int) -> Tensor:
        """This process's columns of α_k δ_k W_k, (…, n, width(k − 1)), from its columns of δ_k."""
        W = self._waiting.pop(k) if k in self._waiting else self.factor(self.local(k))
        return self.own(self.sum(self._product(delta, W, k)), k - 1)

    def check_in_place(self) -> None:
        """Refuse weights that :meth:`local` can only return as a copy.

        Raises:
            UserError: the weights are not sharded by rows over the processes, or are narrower than float32.
        """
        if self.whole is not None:
            return
        for k, layer in enumerate(self.layers, start=1):
            weight = layer.weight
            if weight.dtype != self.dtype:
                raise UserError(f"model: layer {k} is {weight.dtype}; allowed: float32, float64")
            alone = self.ranks.size == 1 and is_whole(weight)
            if not (alone or holds_rows(weight, self.ranks)):
                raise UserError(
                    f"model: the rows of layer {k} do not lie on {self.ranks.size} processes; allowed: "
                    "FSDP2 and tensor-parallel shards, or a whole network on one"
                )

    def numbers(self, values: Tensor) -> list[float | Tensor]:
        """The elements of ``values`` (layers,): numbers on a CPU, else tensors (), so that nothing waits."""
        return values.tolist() if values.device.type == "cpu" else list(values.unbind())

    def _product(self, rows: Tensor, matrix: Tensor, k: int) -> Tensor:
        """α_k rows @ matrix for rows (…, m); the factor is fused into the product."""
        if rows.ndim > 2:
            product = self._product(rows.flatten(0, -2), matrix, k)
            return product.view(*rows.shape[:-1], matrix.shape[1])
        return scaled_product(rows, matrix, self.multiplier(k), self.blank)

    @cached_property
    def _waiting(self) -> dict[int, Tensor]:
        """Weights as factors, by layer, that the forward pass rounded and the backward pass takes."""
        return {}
