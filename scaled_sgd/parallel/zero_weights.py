"""Weights that DeepSpeed's ZeRO-3 has partitioned, by the methods that it gives them."""

from typing import Any

from torch import Tensor


def is_partitioned(weight: Tensor) -> bool:
    """Whether ZeRO-3 has partitioned ``weight``, so that its shape is meaningless."""
    return hasattr(weight, "ds_id")


def gathered(weight: Any, rows: slice = slice(None)) -> Tensor:
    """Rows of a weight that ZeRO-3 has partitioned; all rows by default. Collective."""
    weight.all_gather(param_list=[weight])
    try:
        held: Tensor = weight.detach()[rows].clone()
    finally:
        weight.partition(param_list=[weight], has_been_updated=False)
    return held
