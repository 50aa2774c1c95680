"""Where numbers first stopped being finite, found without waiting for the device."""

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from scaled_sgd.core.network import HomogeneousMLP


def witness(z: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """A number, or one for each index of the other dimensions, that is finite where all of ``z`` is, only.

    The sum where that will do: on a CPU it costs a tenth of any exact answer.
    """
    dims = tuple(range(z.ndim)) if dim is None else dim
    if z.device.type == "cpu":
        total = z.sum(dims, dtype=torch.promote_types(z.dtype, torch.float32))
        if math.isfinite(total if dim is None else total.sum()):
            return total
    # No sum of narrower numbers overflows in float64; 0 · ∞ is not a number.
    return z.mul(0).sum(dims) if z.dtype == torch.float64 else z.sum(dims, dtype=torch.float64)


class DivergenceWatch:
    """Remembers the first step, and in it the first layer, whose preactivations were not finite.

    A step's update spreads one bad number over all weights, so the layer must be caught in the forward
    pass itself. Costs a sum over each z_k.

    Args:
        depth: l.
        device: where the numbers are.
        count: of networks in a stack; None: one network.
    """

    def __init__(self, depth: int, device: torch.device, *, count: int | None = None) -> None:
        self._depth = depth
        self._never = torch.iinfo(torch.int64).max
        shape = () if count is None else (count,)
        self.first = torch.full(shape, self._never, dtype=torch.int64, device=device)
        self._step = 0

    def attach(self, model: HomogeneousMLP) -> None:
        """See every z_k of forward passes with gradients."""
        for k, layer in enumerate(model.scaled_layers, start=1):
            layer.register_forward_hook(self._hook(k))

    def start_step(self, step: int) -> None:
        """What is seen belongs to ``step`` from now on."""
        self._step = step

    def keep(self, rows: Tensor) -> None:
        """Continue with some networks of a stack only."""
        self.first = self.first[rows]

    def see(self, number: Tensor, k: int) -> None:
        """Note ``number`` (…): a :func:`witness` of z_k, or with k = l + 1 the loss."""
        if number.device.type == "cpu" and number.ndim == 0 and math.isfinite(number):
            return
        code = self._step * (self._depth + 2) + k
        bad = torch.where(number.isfinite(), self._never, code)
        torch.minimum(self.first, bad, out=self.first)

    def found(self) -> tuple[int, int] | None:
        """(step, layer) of the first bad number on any rank, None if there was none. Collective, waits."""
        first = self.first.clone()
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(first, op=dist.ReduceOp.MIN)
        return self.place(int(first))

    def place(self, code: int) -> tuple[int, int] | None:
        """(step, layer) of an element of ``first``; None where nothing was bad."""
        return None if code == self._never else divmod(code, self._depth + 2)

    def describe(self, k: int) -> str:
        """A layer number of :meth:`found` in words."""
        return f"layer {k} of {self._depth}" if k <= self._depth else "the loss itself"

    def _hook(self, k: int) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], None]:
        def watch(_module: torch.nn.Module, _args: tuple[Tensor, ...], z: Tensor) -> None:
            if torch.is_grad_enabled():
                self.see(witness(z.detach()), k)

        return watch
