"""Sets up the world of a run and checks that it is the requested one."""

import importlib.util
import os
import socket
import warnings
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs

from scaled_sgd.config import Config, RunConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import launcher
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.train.resolution import check_launched
from scaled_sgd.train.strategies import zero_parts
from scaled_sgd.train.strategies.launched import is_set, world_of

_INSTALLABLE = ", or tensorboard after pip install 'scaled-sgd[tensorboard]'"


def create_accelerator(config: Config) -> Accelerator:
    """Create the accelerator and check that the world is the requested one.

    Raises:
        UserError: the launcher started the wrong number of processes, the device or the precision is not
            available, a tracker is unknown, a tracker or DeepSpeed is not installed, or the launcher's
            configuration contradicts the run's.
    """
    run = config.run
    if launcher.started_alone(run.processes):
        problem, instead = launcher.STARTED_ALONE
        raise UserError(f"launch: {problem}; allowed: {instead}")
    _check_precision(run)
    _check_trackers(run.trackers)
    use_cpu = _takes_cpu(run)
    if run.precision in ("fp16", "tf32") and use_cpu:
        raise UserError(f"run.precision: {run.precision!r} needs a CUDA device; allowed on the CPU: no, bf16")
    if not use_cpu and run.precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise UserError("run.precision: 'bf16' is not supported by this GPU; allowed here: no, tf32, fp16")
    torch.backends.cuda.matmul.allow_tf32 = run.precision == "tf32"
    deepspeed = _deepspeed(config, use_cpu)
    group: dict[str, Any] = {"timeout": timedelta(seconds=run.timeout_seconds)}
    if deepspeed is not None and use_cpu:
        group["backend"] = "gloo"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS")
        accelerator = Accelerator(
            cpu=use_cpu and deepspeed is None,
            mixed_precision="no" if run.precision == "tf32" else run.precision,
            log_with=run.trackers or None,
            project_dir=run.dir,
            deepspeed_plugin=deepspeed,
            kwargs_handlers=[
                InitProcessGroupKwargs(**group),
                # Gradients are views into the averaged buckets, not copies beside them.
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
            # Regardless of the environment: losses are divided by samples, not by microbatches.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
    started = launcher.started()
    if accelerator.num_processes != started:
        raise UserError(
            f"launch: {started} processes were started but they see a world of {accelerator.num_processes}; "
            "allowed: accelerate launch --config_file configs/accelerate/cpu.yaml"
        )
    if run.processes is not None and accelerator.num_processes != run.processes:
        raise UserError(
            f"run.processes: {run.processes} were asked for, {accelerator.num_processes} run; "
            f"allowed: a launcher that starts {run.processes}"
        )
    check_launched(config, world_of(accelerator))
    return accelerator


def _takes_cpu(run: RunConfig) -> bool:
    """Whether to run on the CPU: GPUs are used only if every process of a machine has its own."""
    gpus, processes = torch.cuda.device_count(), launcher.started_here()
    if run.device == "cuda" and gpus < processes:
        raise UserError(
            f"run.device: 'cuda' has {gpus} devices for {processes} processes here; allowed: auto, cpu, or "
            f"at most {gpus} processes a machine"
        )
    return run.device == "cpu" or gpus < processes


def _check_precision(run: RunConfig) -> None:
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", run.precision):
        raise UserError(
            f"launch: mixed precision {launched} was launched and run.precision is {run.precision}; "
            "allowed: the same"
        )


def _check_trackers(trackers: list[str]) -> None:
    available = sorted(str(tracker) for tracker in get_available_trackers())
    for tracker in trackers:
        if tracker not in LOGGER_TYPE_TO_CLASS or tracker not in available:
            raise UserError(
                f"run.trackers: {tracker!r} is not installed or unknown; allowed: "
                f"{', '.join(available) or 'none'}{_INSTALLABLE if 'tensorboard' not in available else ''}"
            )


class _Plugin(DeepSpeedPlugin):  # type: ignore[misc]
    """The plugin without its reference for transformers' models, which needs that package."""

    def set_deepspeed_weakref(self) -> None:
        """No-op."""


def _deepspeed(config: Config, use_cpu: bool) -> DeepSpeedPlugin | None:
    """Accelerate's DeepSpeed plugin if the configuration or the launcher selects ZeRO.

    The launcher's DeepSpeed configuration must agree with the run's, because DeepSpeed would silently follow
    its own: clip, optimise or split the batch in another way.
    """
    launched = is_set("ACCELERATE_USE_DEEPSPEED")
    name = config.sharding.strategy
    stage = STRATEGIES[name].zero_stage if name in STRATEGIES else None
    if stage is None and not launched:
        return None
    if importlib.util.find_spec("deepspeed") is None:
        others = ", ".join(can.name for can in STRATEGIES.entries if can.zero_stage is None)
        raise UserError(
            "sharding.strategy: ZeRO needs deepspeed, which is not installed (pip install "
            f"'scaled-sgd[deepspeed]'); allowed here: {others}"
        )
    if use_cpu and torch.cuda.is_available():
        raise UserError("run.device: 'cpu' with ZeRO where DeepSpeed sees a GPU; allowed: auto, cuda")
    if use_cpu:
        zero_parts.without_compiled_communication()
    if config.optim.batch_size == "all":
        raise UserError(
            "optim.batch_size: 'all' is not known before DeepSpeed starts; allowed: integers from 1"
        )
    accumulation = config.optim.accumulation
    try:
        plugin = _Plugin(
            hf_ds_config=None if launched else {"zero_optimization": {"stage": stage}},
            gradient_accumulation_steps=None if launched else accumulation,
            gradient_clipping=None if launched else 0.0,
        )
    except (ValueError, OSError) as error:
        raise UserError(
            f"launch: its DeepSpeed configuration cannot be used: {error}; allowed: a whole one"
        ) from error
    settings = plugin.deepspeed_config
    processes = launcher.started()
    micro = max(1, config.optim.batch // (processes * accumulation))
    if launched:
        check_deepspeed(settings, config, micro_batch=micro)
    settings |= {
        "train_micro_batch_size_per_gpu": micro,
        "train_batch_size": micro * processes * accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 62,
        # Non-finite steps are not skipped silently; sums are in float32.
        "bf16": {"enabled": config.run.precision == "bf16", "check_grad_overflow": False},
        "communication_data_type": "fp32",
    }
    # Partition small layers too; keep torch's own linear, which DeepSpeed would replace permanently.
    for key, setting in (("stage3_param_persistence_threshold", 0), ("memory_efficient_linear", False)):
        settings["zero_optimization"].setdefault(key, setting)
    for name, value in (
        ("RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "127.0.0.1"),
    ):
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    return plugin


def check_deepspeed(settings: dict[str, Any], config: Config, *, micro_batch: int) -> None:
    """Check that a launcher's DeepSpeed configuration agrees with the run's.

    Args:
        settings: DeepSpeed's configuration.
        config: the run's configuration.
        micro_batch: samples of a microbatch on one process.

    Raises:
        UserError: names the first difference.
    """
    optim = config.optim
    # Accelerate writes 1 if no accumulation was given.
    for key, allowed, meaning in (
        ("gradient_clipping", (optim.clip_norm, 0), f"optim.clip_norm {optim.clip_norm}"),
        ("train_batch_size", (optim.batch,), f"optim.batch_size {optim.batch_size}"),
        ("gradient_accumulation_steps", (optim.accumulation, 1), f"optim.accumulation {optim.accumulation}"),
        ("train_micro_batch_size_per_gpu", (micro_batch,), f"a process's share {micro_batch}"),
    ):
        found = settings.get(key, "auto")
        if found not in ("auto", None, *allowed):
            raise UserError(
                f"launch: its DeepSpeed configuration has {key} {found}; allowed: auto, or {meaning}"
            )
    for key in ("optimizer", "scheduler"):
        if key in settings:
            raise UserError(f"launch: its DeepSpeed configuration has a section {key}; allowed: none")
    zero = settings.get("zero_optimization", {})
    for key in ("offload_optimizer", "offload_param"):
        device = (zero.get(key) or {}).get("device", "none")
        if device != "none":
            raise UserError(
                f"launch: its DeepSpeed configuration has {key} to {device}; allowed: none (signals, scales "
                "and weights must be on one device)"
            )
    for key in ("mics_shard_size", "zero_hpz_partition_size"):
        if zero.get(key, 1) > 1:
            raise UserError(f"launch: its DeepSpeed configuration has {key} {zero[key]}; allowed: none")
    for precision in ("fp16", "bf16"):
        enabled = settings.get(precision, {}).get("enabled", "auto")
        if enabled not in ("auto", config.run.precision == precision):
            raise UserError(
                f"launch: its DeepSpeed configuration has {precision} {enabled}; allowed: auto, or what "
                f"run.precision {config.run.precision} says"
            )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
