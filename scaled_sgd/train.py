"""``accelerate launch -m scaled_sgd.train``: one run, from a command line to a summary."""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from scaled_sgd.config import Config, RunConfig
from scaled_sgd.errors import (
    DIVERGED_STATUS,
    INTERRUPTED_STATUS,
    TERMINATED_STATUS,
    USAGE_STATUS,
    DivergedError,
    UserError,
)
from scaled_sgd.parsing import parse
from scaled_sgd.summary import summary_text
from scaled_sgd.trainer import Trainer

_PRINTING = ("-h", "--help", "--print_config")
_SECONDS_TO_SPEAK = 10.0
"""How long other ranks let the first one speak: the launcher ends them all when it exits. A rank that is
left after that is the only one to know of the mistake."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line asks; returns the exit status: 0, 2 for a mistake, 3 for
    divergence, 130 and 143 for SIGINT and SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not _is_first_rank() and any(argument.startswith(_PRINTING) for argument in arguments):
        return 0
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        config = parse(arguments)
        accelerator = create_accelerator(config.run)
        summary = train(config, accelerator)
    except (UserError, DivergedError) as error:
        if "--debug" in arguments:
            raise
        if not _is_first_rank():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(_SECONDS_TO_SPEAK)
        print(f"error: {error}", file=sys.stderr, flush=True)
        return USAGE_STATUS if isinstance(error, UserError) else DIVERGED_STATUS
    except KeyboardInterrupt as interrupt:
        status = TERMINATED_STATUS if isinstance(interrupt, _Terminated) else INTERRUPTED_STATUS
        if _is_first_rank():
            print("interrupted: the run directory has what was logged so far", file=sys.stderr, flush=True)
        return status
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if summary is not None:
        print(summary)
    return 0


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as an interrupt from the keyboard does."""


def _terminate(_signal: int, _frame: object) -> None:
    raise _Terminated


def train(config: Config, accelerator: Accelerator) -> str | None:
    """Run to the end; the text of the summary on the main process, None elsewhere."""
    trainer = Trainer(config, accelerator)
    summary = trainer.run()
    return None if trainer.directory is None else summary_text(summary, str(trainer.directory.path))


def create_accelerator(run: RunConfig) -> Accelerator:
    """The world to run in, checked to be the one that was asked for.

    Raises:
        UserError: the launcher started another number of processes than it was told to, the device or
            the precision is not there, or a tracker is unknown or not installed.
    """
    _check_launch(run)
    _check_trackers(run.trackers)
    use_cpu = _takes_cpu(run)
    if run.precision == "fp16" and use_cpu:
        raise UserError("run.precision: 'fp16' needs a CUDA device; allowed on the CPU: no, bf16")
    if not use_cpu and run.precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise UserError("run.precision: 'bf16' is not supported by this GPU; allowed here: no, fp16")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS")
        accelerator = Accelerator(
            cpu=use_cpu,
            mixed_precision=run.precision,
            log_with=run.trackers or None,
            project_dir=run.dir,
        )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise UserError(
            f"launch: {started} processes were started but they see a world of {accelerator.num_processes}; "
            "start with accelerate launch --config_file configs/accelerate/cpu.yaml"
        )
    if run.processes is not None and accelerator.num_processes != run.processes:
        raise UserError(
            f"run.processes: {run.processes} were asked for, {accelerator.num_processes} run; "
            f"allowed: a launcher that starts {run.processes}"
        )
    return accelerator


def _takes_cpu(run: RunConfig) -> bool:
    """Whether to run on the CPU: each process of a machine needs a GPU of its own, or none takes one."""
    gpus, processes = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if run.device == "cuda" and gpus < processes:
        raise UserError(
            f"run.device: 'cuda' has {gpus} devices for {processes} processes here; allowed: auto, cpu, or "
            f"at most {gpus} processes a machine"
        )
    return run.device == "cpu" or gpus < processes


def _check_launch(run: RunConfig) -> None:
    """See through the launcher: with --cpu, or one GPU, it starts one process whatever it was told."""
    asked_for_several = "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ
    if asked_for_several and run.processes != 1:
        raise UserError(
            "launch: several processes were asked for and one was started (accelerate launch --cpu does "
            "that); use --config_file configs/accelerate/cpu.yaml, or --multi_gpu instead of --cpu"
        )


def _check_trackers(trackers: list[str]) -> None:
    available = sorted(str(tracker) for tracker in get_available_trackers())
    for tracker in trackers:
        if tracker not in LOGGER_TYPE_TO_CLASS or tracker not in available:
            installed = ", ".join(available) or "none"
            raise UserError(f"run.trackers: {tracker!r} is not installed or unknown; installed: {installed}")


def _is_first_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


if __name__ == "__main__":
    sys.exit(main())
