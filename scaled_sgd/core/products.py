"""Matrix products of bfloat16 factors, accumulated in float32; products of other factors as they are (ours).

Where a device has no such product, the rounded factors are multiplied in float32: products of two bfloat16
numbers are exact there, so that only the order of a sum differs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

NARROW = torch.bfloat16
WIDE = torch.float32


@contextmanager
def full_float32() -> Iterator[None]:
    """Products of float32 factors in full float32 meanwhile: TF32's have three significant digits.

    By the settings of each backend: torch refuses to read those for all once a program has set others.
    """
    mkldnn: Any = torch.backends.mkldnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, kept in zip(backends, before, strict=True):
            backend.fp32_precision = kept


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Left @ right (p, q), or (B, p, q) for a stack; float32 for bfloat16 factors."""
    if left.dtype != NARROW:
        return left @ right
    if not _accumulates(left.device.type, left.ndim):
        return left.to(WIDE) @ right.to(WIDE)
    return (torch.mm if left.ndim == 2 else torch.bmm)(left, right, out_dtype=WIDE)


def scaled_product(left: Tensor, right: Tensor, alpha: float, blank: Tensor) -> Tensor:
    """α left @ right (p, q), with α fused into the product; float32 for bfloat16 factors.

    ``blank`` () has the type of the result and is never read.
    """
    if left.dtype != NARROW:
        return torch.addmm(blank, left, right, beta=0, alpha=alpha)
    out = blank.new_empty(left.shape[0], right.shape[1])
    return add_product_(out, left, right, beta=0, alpha=alpha)


def add_product_(target: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float) -> Tensor:
    """Target ← β target + α left @ right, in place; ``target`` is float32 for bfloat16 factors.

    It is (p, q), or (B, p, q) for a stack.
    """
    add = torch.addmm if target.ndim == 2 else torch.baddbmm
    if left.dtype != NARROW:
        return add(target, left, right, beta=beta, alpha=alpha, out=target)
    if not _accumulates(left.device.type, target.ndim):
        return add(target, left.to(WIDE), right.to(WIDE), beta=beta, alpha=alpha, out=target)
    return add(target, left, right, out_dtype=WIDE, beta=beta, alpha=alpha, out=target)


@cache
def _accumulates(device: str, ndim: int) -> bool:
    """Whether products of bfloat16 factors of ``ndim`` dimensions can be added to float32 numbers there.

    So it is on CUDA with torch ≥ 2.10.
    """
    shape = (8,) * ndim
    factor, target = torch.zeros(shape, dtype=NARROW, device=device), torch.zeros(shape, device=device)
    try:
        add_product = torch.addmm if ndim == 2 else torch.baddbmm
        add_product(target, factor, factor, out_dtype=WIDE, out=target)
    except (RuntimeError, TypeError):
        return False
    return True
