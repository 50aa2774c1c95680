"""The ``sharding.`` section of the configuration."""

from dataclasses import dataclass
from typing import Literal, get_args

StrategyName = Literal["auto", "ddp", "fsdp2", "zero1", "zero2", "zero3", "tensor", "fsdp2+tensor"]
STRATEGIES: tuple[str, ...] = get_args(StrategyName)[1:]
"""All but ``auto``."""


@dataclass
class ShardingConfig:
    """How weights lie over processes. No choice changes the result of a step."""

    strategy: StrategyName = "auto"
    """ddp: all weights on every process; the others: parts of them; auto: as doctor --plan advises"""
    tensor_processes: int | None = None
    """fsdp2+tensor: how many neighbouring processes share each layer; null: those of a machine, or 2"""
    exchange: Literal["auto", "factors", "gradients"] = "auto"
    """optim.fused_update under ddp: what of a layer moves; auto: its factors (h, δ) where that is faster"""
    activation_checkpointing: bool = False
    """keep the signals of every √l-th layer alone and compute the others again in the backward pass"""
    offload: bool = False
    """weights in the memory of the host; refused: signals, scales and weights must be on one device"""
