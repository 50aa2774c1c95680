"""Matrix products of bfloat16 factors, accumulated in float32; products of other factors as they are (ours).

Where a device has no such product, the rounded factors are multiplied in float32: products of two bfloat16
numbers are exact there, so that only the order of a sum differs.
"""

from functools import cache

import torch
from torch import Tensor

NARROW = torch.bfloat16
WIDE = torch.float32


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Left @ right (…, p, q); float32 for bfloat16 factors."""
    if left.dtype != NARROW:
        return left @ right
    if left.ndim == 2 and _accumulates(left.device.type):
        return torch.mm(left, right, out_dtype=WIDE)
    return left.to(WIDE) @ right.to(WIDE)


def scaled_product(left: Tensor, right: Tensor, alpha: float, blank: Tensor) -> Tensor:
    """α left @ right (p, q), with α fused into the product; float32 for bfloat16 factors.

    ``blank`` () has the type of the result and is never read.
    """
    if left.dtype != NARROW:
        return torch.addmm(blank, left, right, beta=0, alpha=alpha)
    out = blank.new_empty(left.shape[0], right.shape[1])
    return add_product_(out, left, right, beta=0, alpha=alpha)


def add_product_(target: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float) -> Tensor:
    """Target ← β target + α left @ right, in place; ``target`` (p, q) is float32 for bfloat16 factors."""
    if left.dtype != NARROW:
        return target.addmm_(left, right, beta=beta, alpha=alpha)
    if not _accumulates(left.device.type):
        return target.addmm_(left.to(WIDE), right.to(WIDE), beta=beta, alpha=alpha)
    return torch.addmm(target, left, right, out_dtype=WIDE, beta=beta, alpha=alpha, out=target)


@cache
def _accumulates(device: str) -> bool:
    """Whether products of bfloat16 factors can be added to float32 numbers there (CUDA, torch ≥ 2.10)."""
    factor, target = torch.zeros(8, 8, dtype=NARROW, device=device), torch.zeros(8, 8, device=device)
    try:
        torch.addmm(target, factor, factor, out_dtype=WIDE, out=target)
    except (RuntimeError, TypeError):
        return False
    return True
