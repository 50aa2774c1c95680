"""Gradients of autograd as matrices; a bias is the weight of a feature of value 1 (theory §3b, ours)."""

from collections.abc import Sequence

import torch
from torch import nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import is_whole
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.statistics import Gradient, gram


def joined_shape(parameters: Sequence[nn.Parameter]) -> tuple[int, int, int]:
    """(0, m_k, m_{k−1} or, with a bias, m_{k−1} + 1)."""
    m_out, m_in = parameters[0].shape
    return 0, m_out, m_in + len(parameters) - 1


def smaller_side(parameters: Sequence[nn.Parameter], name: str, dtype: torch.dtype | None = None) -> Gradient:
    """The gradient [G_k, g_k] of a layer's weight and bias, in ``dtype`` and at least float32.

    Raises:
        UserError: the gradients are sharded.
    """
    parts = []
    for p in parameters:
        if not is_whole(p):
            raise UserError(
                f"model: the gradient of layer {name} is in parts, whose singular values are not those "
                "of the whole; allowed: optim.update fused (steps.step.take_step), or whole gradients"
            )
        grad = torch.zeros_like(p) if p.grad is None else p.grad
        parts.append(grad if grad.ndim == 2 else grad[:, None])
    G = torch.cat(parts, 1)
    G = G.to(dtype or torch.promote_types(G.dtype, torch.float32))
    if G.shape[1] <= G.shape[0]:
        return Gradient(gram(G.T), lambda M: G @ M)
    return Gradient(gram(G), lambda M: M @ G)


def replace_gradients(layers: Sequence[Sequence[nn.Parameter]], direction: Direction) -> None:
    """Put the dense rows of ``direction``, without its numbers, in the place of the gradients."""
    for i, parameters in enumerate(layers):
        rows = direction.rows(i)
        assert rows is not None
        columns = [1 if p.ndim == 1 else p.shape[1] for p in parameters]
        for p, part in zip(parameters, torch.split(rows, columns, 1), strict=True):
            if p.grad is not None:
                p.grad.copy_(part.view_as(p.grad))
