"""DeepSpeed as ZeRO needs it: this process's parts of what ZeRO-3 partitions. Imports it on first use."""

from typing import Any

import torch
from torch import Tensor


def cut_up(layer: torch.nn.Module, config: dict[str, Any]) -> None:
    """Partition the weights of ``layer`` by ZeRO-3. Collective."""
    from deepspeed import zero

    zero.Init(module=layer, config_dict_or_path=config)


def partition(weight: Any, name: str | None = None) -> Tensor:
    """This process's padded part of a ZeRO-3 weight's float32 master, or of an optimizer state by name."""
    from deepspeed import utils

    held: Tensor = (
        utils.safe_get_local_fp32_param(weight)
        if name is None
        else utils.safe_get_local_optimizer_state(weight, name)
    )
    return held.detach().view(-1)


def gradient_partition(weight: Any) -> Tensor:
    """This process's padded part of a ZeRO-3 weight's gradient: a view if it is float32."""
    from deepspeed import utils

    held: Tensor = utils.safe_get_local_grad(weight)
    return held.detach().view(-1)


def put_gradient(weight: Any, padded: Tensor) -> None:
    """Replace the result of :func:`gradient_partition`."""
    from deepspeed import utils

    utils.safe_set_local_grad(weight, padded)


def without_compiled_communication() -> None:
    """Stop DeepSpeed on the CPU from compiling its own communication extension; gloo replaces it."""
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False
