"""Detects where numbers first became non-finite, without waiting for the device."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from scaled_sgd.core.network import HomogeneousMLP


def witness(z: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """One number per index of the other dimensions that is finite if and only if all of ``z`` is.

    On a CPU the sum if that suffices: it costs a tenth of any exact test. Elsewhere the largest size of an
    element, in one pass without a copy of z.
    """
    dims = tuple(range(z.ndim)) if dim is None else dim
    if z.device.type == "cpu":
        total = z.sum(dims, dtype=torch.promote_types(z.dtype, torch.float32))
        if math.isfinite(total if dim is None else total.sum()):
            return total
    else:
        largest: Tensor = torch.linalg.vector_norm(z, torch.inf, dims)
        return largest
    # A float64 sum of narrower numbers cannot overflow; 0 · ∞ is nan.
    return z.mul(0).sum(dims) if z.dtype == torch.float64 else z.sum(dims, dtype=torch.float64)


def witnesses(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A :func:`witness` (…) of each of ``tensors`` (…, n, m), with few launches for one network."""
    if all(t.ndim == 2 for t in tensors):
        return list(torch._foreach_norm(list(tensors), torch.inf)) if tensors else []
    return [witness(t, (-2, -1)) for t in tensors]


class DivergenceWatch:
    """Records the first step, and its first layer, with non-finite preactivations.

    One update spreads a bad number over all weights, so the layer must be found in the forward pass itself.
    The cost is a pass over each z_k.

    Args:
        depth: l.
        device: device of the numbers.
        count: number of networks in a stack; None: one network.
    """

    def __init__(self, depth: int, device: torch.device, *, count: int | None = None) -> None:
        self._depth = depth
        self._never = torch.iinfo(torch.int64).max
        shape = () if count is None else (count,)
        self.first = torch.full(shape, self._never, dtype=torch.int64, device=device)
        self._code = torch.zeros((), dtype=torch.int64, device=device)
        self._layers = torch.arange(1, depth + 2, device=device)

    def attach(self, model: HomogeneousMLP) -> None:
        """Watch every z_k of forward passes with gradients."""
        for k, layer in enumerate(model.scaled_layers, start=1):
            layer.register_forward_hook(self._hook(k))

    def start_step(self, step: int) -> None:
        """Assign everything seen from now on to ``step``; a recorded step reads it from the device."""
        self._code.fill_(step * (self._depth + 2))

    def keep(self, rows: Tensor) -> None:
        """Continue with some networks of a stack only."""
        self.first = self.first[rows]

    def see(self, numbers: Sequence[Tensor], k: int) -> None:
        """Record ``numbers``, each (…): :func:`witness`es of z_k, z_{k+1}, …, or the loss for k = l + 1."""
        there = numbers[0].device
        if there.type == "cpu" and all(number.ndim == 0 and math.isfinite(number) for number in numbers):
            return
        codes = self._code + self._layers[k - 1 : k - 1 + len(numbers)]
        bad = torch.where(torch.stack(list(numbers), -1).isfinite(), self._never, codes).amin(-1)
        torch.minimum(self.first, bad, out=self.first)

    def found(self) -> tuple[int, int] | None:
        """(step, layer) of the first bad number on any rank, or None. Collective; waits for the device."""
        first = self.first.clone()
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(first, op=dist.ReduceOp.MIN)
        return self.place(int(first))

    def place(self, code: int) -> tuple[int, int] | None:
        """(step, layer) of an element of ``first``; None if nothing was bad."""
        return None if code == self._never else divmod(code, self._depth + 2)

    def describe(self, k: int) -> str:
        """A layer number of :meth:`found` as text."""
        return f"layer {k} of {self._depth}" if k <= self._depth else "the loss itself"

    def _hook(self, k: int) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], None]:
        def watch(_module: torch.nn.Module, _args: tuple[Tensor, ...], z: Tensor) -> None:
            if torch.is_grad_enabled() and z.numel():
                self.see([witness(z.detach())], k)

        return watch
