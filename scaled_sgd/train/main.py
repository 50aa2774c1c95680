"""``accelerate launch -m scaled_sgd.train``: one run, from a command line to a summary."""

import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from scaled_sgd.config import Config
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import (
    DIVERGED_STATUS,
    INTERRUPTED_STATUS,
    LOST_STATUS,
    USAGE_STATUS,
    DivergedError,
    LostError,
    StoppedError,
    UserError,
    error_line,
)
from scaled_sgd.parallel import launcher
from scaled_sgd.parallel.endings import end_with, stopped_by_signals
from scaled_sgd.parallel.streams import prepare_streams

if TYPE_CHECKING:
    from accelerate import Accelerator

_PRINTING = ("-h", "--help", "--print_config")
_STATUS = {DivergedError: DIVERGED_STATUS, LostError: LOST_STATUS}
_SECONDS_TO_SPEAK = 10.0
"""Seconds that other ranks wait for rank 0 to print: the launcher ends all ranks when one exits. A rank
that is still alive after that is the only one that knows of the mistake."""

_SECONDS_TO_NOTICE = 2.0
"""Seconds that rank 0 gives the launcher to notice that a process is gone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train from a command line; returns the exit status: 0, 2 for a mistake, 3 for divergence, 4 for a lost
    process or run directory, 128 + the number of a signal that stopped the run."""
    if arguments is None:
        prepare_streams()
        warnings.showwarning = _show_warning
        arguments = sys.argv[1:]
    if launcher.rank() != 0 and any(argument.startswith(_PRINTING) for argument in arguments):
        return 0
    if (starter := launcher.starter()) is not None:
        end_with(starter, signal.SIGTERM)
    with stopped_by_signals("the run directory has what was logged so far"):
        return _run(arguments)


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _run(arguments: Sequence[str]) -> int:
    try:
        config = parse(arguments)
        # After parsing: what only prints does not import torch.
        from scaled_sgd.train.accelerator import create_accelerator

        accelerator = create_accelerator(config)
        summary = train(config, accelerator)
    except (UserError, DivergedError, LostError, OSError) as error:
        if "--debug" in arguments:
            raise
        if launcher.rank() != 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(_SECONDS_TO_SPEAK)
        print(f"error: {error_line(error)}", file=sys.stderr, flush=True)
        return _STATUS.get(type(error), USAGE_STATUS)
    except KeyboardInterrupt as interrupt:
        if launcher.rank() == 0:
            said = str(interrupt) or "the run directory has what was logged so far"
            print(f"interrupted: {said}", file=sys.stderr, flush=True)
        return 128 + interrupt.number if isinstance(interrupt, StoppedError) else INTERRUPTED_STATUS
    except RuntimeError as error:
        if "--debug" in arguments or not _lost_another(error):
            raise
        _leave_the_lost(error)
    finally:
        _leave_the_world()
    if summary is not None:
        _print_summary(summary)
    return 0


def _leave_the_world() -> None:
    """Destroy the process group, if there is one; without torch there is none."""
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def _print_summary(text: str) -> None:
    """Print; the run has ended and its summary is on the disk, whatever happens here."""
    try:
        print(text, flush=True)
    except OSError as error:
        print(f"warning: summary: cannot be printed: {error.strerror}", file=sys.stderr, flush=True)


def _lost_another(error: RuntimeError) -> bool:
    """Whether a collective failed because another process is gone or hangs."""
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    signs = ("closed by peer", "reset by peer", "Broken pipe", "imed out", "timeout", "Socket", "NCCL")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


def _leave_the_lost(error: RuntimeError) -> NoReturn:
    """Print the error and end this process without waiting for the others.

    A launcher that saw a process die ends the others in the meantime and prints its own message.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_SECONDS_TO_NOTICE if launcher.rank() == 0 else _SECONDS_TO_SPEAK)
    reason = str(error).strip().splitlines()[-1]
    print(
        f"error: launch: another process is gone or hangs ({reason}); the last checkpoint is kept, "
        "continue with --run.resume auto",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST_STATUS)


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; torch has a separate class for that only on GPUs."""
    import torch

    signs = ("allocate memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(s in str(error) for s in signs)


def train(config: Config, accelerator: "Accelerator") -> str | None:
    """Train to the end; returns the text of the summary on rank 0, None elsewhere.

    Raises:
        UserError: :class:`Trainer` refuses, or memory is insufficient.
    """
    from scaled_sgd.runs.summary import summary_text
    from scaled_sgd.train.trainer import Trainer

    try:
        trainer = Trainer(config, accelerator)
        summary = trainer.run()
    except (RuntimeError, MemoryError) as error:
        if _out_of_memory(error):
            raise UserError(
                f"memory: {str(error).splitlines()[0]}; allowed: smaller model.base_width or "
                "optim.batch_size, or more processes with another sharding.strategy"
            ) from error
        raise
    return None if trainer.directory is None else summary_text(summary, str(trainer.directory.path))
