"""The identity function that measures a layer's signals while autograd runs."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.steps.statistics import square_norm


class Measure(torch.autograd.Function):
    """Identity on z; the probe's gradient is (‖h‖², ‖∂L/∂z‖², rows, 1) in float64."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, h_square: Tensor, rows: int, probe: Tensor) -> Tensor:
        """z; ‖h‖² () and the rows of h are kept."""
        ctx.h_square = h_square
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
        h_square: Tensor = ctx.h_square
        squares = torch.stack((h_square, square_norm(delta)))
        if torch.compiler.is_compiling():
            counts = torch.stack((torch.full_like(h_square, ctx.rows), torch.ones_like(h_square)))
            return delta, None, None, torch.cat((squares, counts))
        sums = torch.cat((squares, _counts(ctx.rows, h_square.device)))
        if ctx.earlier is not None or torch._C._autograd._get_current_graph_task_keep_graph():
            sums = _with_earlier(ctx, delta.detach(), sums)
        return delta, None, None, sums


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
    added = square_norm(ctx.earlier) - square_norm(earlier)
    return torch.stack((torch.zeros_like(added), added, *torch.zeros_like(sums[2:])))


@lru_cache(maxsize=64)
def _counts(rows: int, device: torch.device) -> Tensor:
    """(rows, 1), kept since moving numbers to a device makes it wait."""
    return torch.tensor([rows, 1.0], dtype=torch.float64, device=device)


def in_backward() -> bool:
    """Whether activation checkpointing is recomputing a forward pass, in any order."""
    return torch._C._current_graph_task_id() != -1


def in_functional_transform() -> bool:
    """Whether a ``torch.func`` transform is active, whose derivatives are not for the optimizer."""
    return torch._C._functorch.peek_interpreter_stack() is not None
