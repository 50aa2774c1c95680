"""Sharding by a launcher's configuration file: Accelerate's own FSDP, or DeepSpeed."""

import os
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import launcher
from scaled_sgd.parallel.machine import host_memory
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning.choice import World

if TYPE_CHECKING:
    from accelerate import Accelerator

_FSDP = {can.fsdp_version: can.name for can in STRATEGIES.entries if can.fsdp_version is not None}
"""The strategy of each version of FSDP."""


def is_set(variable: str) -> bool:
    """Whether an environment variable of the launcher is set to yes."""
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")


def world_of(accelerator: "Accelerator") -> World:
    """The world of an accelerator.

    Raises:
        UserError: the launched version of FSDP or stage of ZeRO is not supported.
    """
    local = launcher.started_here()
    cuda = accelerator.device.type == "cuda"
    memory = torch.cuda.mem_get_info()[1] if cuda else host_memory() // local
    policy = getattr(fsdp_plugin(accelerator), "mixed_precision_policy", None)
    half = policy is not None and policy.param_dtype is not None
    return World(accelerator.num_processes, local, cuda, memory, launched_strategy(accelerator), half)


def launched_strategy(accelerator: "Accelerator") -> str | None:
    """The ``sharding.strategy`` that a launch selects; None: any.

    Raises:
        UserError: it selects FSDP of another version than 2, or ZeRO of another stage than 1, 2 and 3.
    """
    if accelerator.distributed_type.value == "DEEPSPEED":
        assert accelerator.deepspeed_plugin is not None
        stage = accelerator.deepspeed_plugin.zero_stage
        stages = {can.zero_stage: can.name for can in STRATEGIES.entries if can.zero_stage is not None}
        if stage not in stages:
            allowed = ", ".join(map(str, stages))
            raise UserError(f"launch: its DeepSpeed configuration has ZeRO stage {stage}; allowed: {allowed}")
        return stages[stage]
    plugin = fsdp_plugin(accelerator)
    return None if plugin is None else _FSDP[plugin.fsdp_version]


def fsdp_plugin(accelerator: "Accelerator") -> Any:
    """Accelerate's FSDP plugin if that was launched, else None.

    Without GPUs Accelerate drops it; the launcher's variables still tell.

    Raises:
        UserError: its version is not 2, it recomputes activations itself, or it offloads weights to the host.
    """
    plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None and is_set("ACCELERATE_USE_FSDP"):
        plugin = FullyShardedDataParallelPlugin()
        if accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(accelerator.mixed_precision)
    if plugin is None:
        return None
    if plugin.fsdp_version not in _FSDP:
        raise UserError(
            f"launch: FSDP version {plugin.fsdp_version} was launched; allowed: fsdp_version: "
            f"{', '.join(map(str, _FSDP))}, or a launch without FSDP and --sharding.strategy "
            f"{', '.join(_FSDP.values())}"
        )
    if plugin.activation_checkpointing:
        raise UserError(
            "launch: fsdp_activation_checkpointing true was launched; allowed: false, and "
            "--sharding.activation_checkpointing true"
        )
    if type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy":
        raise UserError("launch: fsdp_offload_params true was launched; allowed: false")
    return plugin
