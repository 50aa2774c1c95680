"""The identity function that measures a layer's signals while autograd runs."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.steps.hook_checks import is_captured
from scaled_sgd.steps.statistics import square_into, square_norm


class BegunSums:
    """A pass's sums of each layer where launches are dear, all made at once for a pass like the last."""

    def __init__(self, depth: int) -> None:
        self._rows = [0] * depth
        self._made: list[Tensor | None] = [None] * depth
        self._read_by_graphs: list[Tensor] = []

    def __call__(self, k: int, h: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
        """(‖h‖², 0, rows, 1) of layer k in ``dtype``, to be completed in place; each is given once."""
        if k == 0:
            self._made = [*self._start(tuple(self._rows), h, dtype).unbind()]
        sums, self._made[k] = self._made[k], None
        if sums is None or self._rows[k] != rows or sums.dtype != dtype or sums.device != h.device:
            self._rows[k] = rows
            sums = self._start((rows,), h, dtype).select(0, 0)
        square_into(h, sums.select(0, 0))
        return sums

    def _start(self, rows: tuple[int, ...], h: Tensor, dtype: torch.dtype) -> Tensor:
        blank = _blank(rows, h.device, dtype)
        if is_captured(h):
            # A graph copies it from its place at every replay.
            self._read_by_graphs.append(blank)
        return blank.clone()


class Measure(torch.autograd.Function):
    """Identity on z; the probe's gradient is (‖h‖², ‖∂L/∂z‖², rows, 1)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, measured: Tensor, rows: int, probe: Tensor) -> Tensor:
        """z; ``measured``, ‖h‖² () or the sums (4,) that have begun, and the rows of h are kept."""
        ctx.measured = measured
        ctx.rows = rows
        if torch.compiler.is_compiling():
            return z.view_as(z)
        ctx.earlier = None
        # Not a view of z, so that an in-place activation may overwrite it.
        ctx.mark_dirty(z)
        return z

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, None, None, Tensor]:
        """∂L/∂z for z, and the sums of this pass for the probe."""
        h_square: Tensor | None = ctx.measured
        if h_square is None:
            raise RuntimeError(
                "the graph of this backward pass was freed by one before: retain_graph=True keeps it"
            )
        if h_square.ndim:
            return delta, None, None, _completed(ctx, delta.detach())
        squares = torch.stack((h_square, square_norm(delta)))
        if torch.compiler.is_compiling():
            counts = torch.stack((torch.full_like(h_square, ctx.rows), torch.ones_like(h_square)))
            return delta, None, None, torch.cat((squares, counts))
        sums = torch.cat((squares, _counts(ctx.rows, h_square.device)))
        if _may_come_again(ctx):
            sums = _with_earlier(ctx, delta.detach(), sums)
        return delta, None, None, sums


def _completed(ctx: Any, delta: Tensor) -> Tensor:
    """The sums of this pass, in the tensor that the forward pass began."""
    sums: Tensor = ctx.measured
    if not _may_come_again(ctx):
        square_into(delta, sums.select(0, 1))
        # As nothing else holds them they become the probe's gradient without a copy.
        ctx.measured = None
        return sums
    sums = sums.clone()
    square_into(delta, sums.select(0, 1))
    return _with_earlier(ctx, delta, sums)


def _may_come_again(ctx: Any) -> bool:
    return ctx.earlier is not None or torch._C._autograd._get_current_graph_task_keep_graph()


def _with_earlier(ctx: Any, delta: Tensor, sums: Tensor) -> Tensor:
    """What a backward pass adds to ``sums`` of a forward pass that an earlier one may have been through.

    Their signals add up, as their gradients do: ‖δ_1 + δ_2‖² − ‖δ_1‖², of the same rows and the same pass.
    """
    if not torch._C._will_engine_execute_node(ctx.next_functions[-1][0]):
        return sums  # torch.autograd.grad leaves the probe alone
    earlier, ctx.earlier = ctx.earlier, delta
    if earlier is None:
        return sums
    ctx.earlier = earlier + delta
    added = (square_norm(ctx.earlier) - square_norm(earlier)).to(sums.dtype)
    return torch.stack((torch.zeros_like(added), added, *torch.zeros_like(sums[2:])))


@lru_cache(maxsize=64)
def _counts(rows: int, device: torch.device) -> Tensor:
    """(rows, 1), kept since moving numbers to a device makes it wait."""
    return torch.tensor([rows, 1.0], dtype=torch.float64, device=device)


@lru_cache(maxsize=64)
def _blank(rows: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(0, 0, rows, 1) of each layer."""
    return torch.tensor([[0.0, 0.0, own, 1.0] for own in rows], dtype=dtype, device=device)


def in_backward() -> bool:
    """Whether activation checkpointing is recomputing a forward pass, in any order."""
    return torch._C._current_graph_task_id() != -1


def in_functional_transform() -> bool:
    """Whether a ``torch.func`` transform is active, whose derivatives are not for the optimizer."""
    return torch._C._functorch.peek_interpreter_stack() is not None
