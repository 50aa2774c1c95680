"""Tensor parallelism: each process computes its columns of z_k from its rows of W_k (theory §6).

h_{k−1} is gathered before layer k; the gradient that flows back through the gather is reduced and scattered.
Both are autograd functions whose backward pass is the other one, so they can be differentiated any number of
times. The same holds for x, which every process has, and f, which every process gets. (DTensor's own plans
silently give wrong second derivatives.)
"""

import itertools
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from scaled_sgd.core.network import HomogeneousMLP, ScaledLinear
from scaled_sgd.parallel.layout import chunk_offsets
from scaled_sgd.parallel.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class _Gather(torch.autograd.Function):
    """Gathers columns (n, own) to (n, m); every process then does a part of the work."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks, sizes: list[int]) -> Tensor:
        ctx.columns = (ranks, sizes)
        return ranks.gather(own.T, sizes).T.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _SumAndCut.apply(gradient, *ctx.columns)), None, None  # type: ignore[no-untyped-call]


class _SumAndCut(torch.autograd.Function):
    """Sums the processes' (n, m); every process keeps its columns (n, own)."""

    @staticmethod
    def forward(ctx: Any, partial: Tensor, ranks: Ranks, sizes: list[int]) -> Tensor:
        ctx.columns = (ranks, sizes)
        return ranks.sum_and_cut(partial.T, sizes).T.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Gather.apply(gradient, *ctx.columns)), None, None  # type: ignore[no-untyped-call]


class _GatherForAll(torch.autograd.Function):
    """Like :class:`_Gather`, but every process then does the same work, so that gradients are equal."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks, sizes: list[int]) -> Tensor:
        ctx.columns = (ranks, sizes)
        return ranks.gather(own.T, sizes).T.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Cut.apply(gradient, *ctx.columns)), None, None  # type: ignore[no-untyped-call]


class _Cut(torch.autograd.Function):
    """This process's columns of a tensor that every process has."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, ranks: Ranks, sizes: list[int]) -> Tensor:
        ctx.columns = (ranks, sizes)
        return torch.split(whole, sizes, dim=1)[ranks.rank].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _GatherForAll.apply(gradient, *ctx.columns)), None, None  # type: ignore[no-untyped-call]


class _Share(torch.autograd.Function):
    """A tensor (n, m) that every process has; every process then does a part of the work."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Sum.apply(gradient, ctx.ranks)), None  # type: ignore[no-untyped-call]


class _Sum(torch.autograd.Function):
    """Sums the processes' (n, m); every process gets the sum."""

    @staticmethod
    def forward(ctx: Any, partial: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(partial.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Share.apply(gradient, ctx.ranks)), None  # type: ignore[no-untyped-call]


class ColumnParallelLinear(ScaledLinear):
    """This process's columns of z_k = α_k h_{k−1} W_kᵀ; its weight is a DTensor sharded by rows over a mesh.

    Args:
        layer: the layer to replace; only its shape and constants are read.
        ranks: the processes that share the layer.
        mesh: the same processes as a one-dimensional mesh.
        gathers: whether the input is in columns; the first layer's input is complete.

    Attributes:
        parts: number of processes that share the layer.
    """

    def __init__(self, layer: ScaledLinear, ranks: Ranks, mesh: DeviceMesh, *, gathers: bool) -> None:
        from torch.distributed.tensor import DTensor, Shard

        super().__init__(
            layer.in_features,
            layer.out_features,
            multiplier=layer.multiplier,
            init_std=layer.init_std,
            layer_weight=layer.layer_weight,
            device="meta",
            dtype=layer.weight.dtype,
        )
        self.parts = ranks.size
        self._ranks = ranks
        self.in_sizes = column_sizes(layer.in_features, ranks) if gathers else None
        self.out_sizes = column_sizes(layer.out_features, ranks)
        own = torch.empty(
            self.out_sizes[ranks.rank], layer.in_features, dtype=layer.weight.dtype, device="meta"
        )
        self.weight = nn.Parameter(
            DTensor.from_local(
                own,
                mesh,
                [Shard(0)],
                run_check=False,
                shape=layer.weight.shape,
                stride=layer.weight.stride(),
            )
        )
        # Before the layer, not inside, so that hooks on the layer see all of h_{k−1}.
        self.register_forward_pre_hook(_whole_input)

    def forward(self, h: Tensor) -> Tensor:
        """This process's columns of z (n, own) from all of h (n, m_{k−1})."""
        weight = cast("DTensor", self.weight).to_local()
        return F.linear(h if self.multiplier == 1 else self.multiplier * h, weight)

    def whole_input(self, h: Tensor) -> Tensor:
        """All of h_{k−1} (n, m_{k−1}), gathered if the input is in columns."""
        if self.in_sizes is None:
            return cast(Tensor, _Share.apply(h, self._ranks))  # type: ignore[no-untyped-call]
        return cast(Tensor, _Gather.apply(h, self._ranks, self.in_sizes))  # type: ignore[no-untyped-call]

    def gather_output(self, own: Tensor) -> Tensor:
        """All of z_k (n, m_k), for the same use on every process."""
        return cast(Tensor, _GatherForAll.apply(own, self._ranks, self.out_sizes))  # type: ignore[no-untyped-call]


def column_sizes(width: int, ranks: Ranks) -> list[int]:
    """Number of the ``width`` columns on each process."""
    return [b - a for a, b in itertools.pairwise(chunk_offsets(width, ranks.size))]


def parallelize(network: HomogeneousMLP, mesh: DeviceMesh) -> None:
    """Shard every layer of a network on the meta device by rows over the one-dimensional ``mesh``.

    Every process of the mesh must get the same samples; each gets the full output. ``network.to_empty``
    allocates the rows.
    """
    ranks = Ranks(mesh.get_group())
    layers = [
        ColumnParallelLinear(layer, ranks, mesh, gathers=k > 1)
        for k, layer in enumerate(network.scaled_layers, start=1)
    ]
    network.layers = nn.ModuleList(layers)
    network.register_forward_hook(lambda _module, _args, f: layers[-1].gather_output(f))


def _whole_input(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
    assert isinstance(layer, ColumnParallelLinear)
    return (layer.whole_input(args[0]),)
