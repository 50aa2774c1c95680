"""The section ``sharding``."""

from dataclasses import dataclass
from typing import Annotated, Literal

from scaled_sgd.config.sections.marks import Count
from scaled_sgd.config.values import Holds, OneOf
from scaled_sgd.parallel.strategies import STRATEGIES


@dataclass
class ShardingConfig:
    """How weights lie over processes. No choice changes the result of a step."""

    strategy: Annotated[str, OneOf(STRATEGIES, also=("auto",))] = "auto"
    """ddp: all weights on every process; the others: parts of them; auto: as doctor --plan advises"""
    tensor_processes: Count | None = None
    """fsdp2+tensor: how many neighbouring processes share each layer; null: those of a machine, or 2"""
    exchange: Literal["auto", "factors", "gradients"] = "auto"
    """fused steps under ddp: what of a layer moves; auto: its factors (h, δ) where that is faster"""
    activation_checkpointing: bool = False
    """keep the signals of every √l-th layer only and compute the others again in the backward pass"""
    offload: Annotated[
        bool,
        Holds(lambda asked: not asked, "false (signals, scales and weights must be on one device)"),
    ] = False
    """weights in the memory of the host; refused: signals, scales and weights must be on one device"""
