"""The command line ``scaled-sgd``."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from scaled_sgd import __version__
from scaled_sgd.core.errors import USAGE_STATUS, UserError, error_line
from scaled_sgd.core.shipped import copy_shipped
from scaled_sgd.core.text import escaped
from scaled_sgd.parallel import launcher
from scaled_sgd.parallel.endings import hangs_up
from scaled_sgd.parallel.streams import prepare_streams

_USAGE = """\
usage: scaled-sgd COMMAND [OPTIONS]

  train         train one network: scaled-sgd train --config FILE [--model.depth 8 ...] [--run.processes N]
  predict       predict new rows: scaled-sgd predict RUN --data.source FILE --out predictions.parquet
  evaluate      loss and metric on other data: scaled-sgd evaluate RUN --data.source FILE
  runs          list runs, how they ended and how to go on: scaled-sgd runs [--run.dir runs]
  export        the network for other programs: scaled-sgd export RUN --format onnx --out wide.onnx
  line          draw the loss along a line through a run's weights: scaled-sgd line RUN --along eigenvector
  flow          gradient descent beside gradient and central flow: scaled-sgd flow RUN --lr 0.5 --length 300
  study         run grids of networks and report on them: scaled-sgd study list | run NAME | report NAME
  doctor        say what this machine and this launch can do: scaled-sgd doctor [--processes N] [--json]
                or what a network would take on a cluster: scaled-sgd doctor --plan [--plan.ranks 1024 ...]
  launch-files  copy configs/ and launch/ into a folder: scaled-sgd launch-files FOLDER

scaled-sgd train --help lists every option. Across machines, start scaled_sgd.train with accelerate launch.
"""

_LAUNCH_FILES = """\
usage: scaled-sgd launch-files FOLDER

Copy configs/ (experiments, studies, files for accelerate launch) and launch/ (scripts for one machine,
several, and Slurm) into FOLDER, where the commands of the documentation then work. A file that exists and
differs is not replaced.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    if arguments is None:
        prepare_streams()
        arguments = sys.argv[1:]
    try:
        try:
            return _command(list(arguments))
        finally:
            sys.stdout.flush()
    except OSError as error:
        if "--debug" in arguments:
            raise
        print(f"error: {error_line(error)}", file=sys.stderr, flush=True)
        return USAGE_STATUS


def _command(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else USAGE_STATUS
    if arguments[0] == "--version":
        print(f"scaled-sgd {__version__}")
        return 0
    command, *rest = arguments
    if command == "train":
        return _train(rest)
    if command == "doctor":
        return _doctor(rest)
    if command == "study":
        from scaled_sgd.study.command import main as study

        return study(rest)
    if command == "line":
        from scaled_sgd.study.line.command import main as line

        return line(rest)
    if command == "flow":
        from scaled_sgd.study.flow.command import main as flow

        return flow(rest)
    if command == "launch-files":
        return _launch_files(rest)
    if command in ("predict", "evaluate", "export", "runs"):
        from scaled_sgd.runs.command import main as use

        return use(command, rest)
    print(
        f"error: command: {command!r} is unknown; allowed: train, predict, evaluate, runs, export, line, "
        "flow, study, doctor, launch-files",
        file=sys.stderr,
    )
    return USAGE_STATUS


def _train(arguments: list[str]) -> int:
    """Train in this process, or in ``run.processes`` local ones, started after the configuration check."""
    from scaled_sgd.config.parsing import parse

    try:
        processes = parse(arguments, prog="scaled-sgd train").run.processes
    except UserError as error:
        if "--debug" in arguments:
            raise
        print(f"error: {error}", file=sys.stderr)
        return USAGE_STATUS
    if processes in (None, 1) or launcher.is_launched():
        from scaled_sgd.train.main import main as train

        return train(arguments)
    return _start_processes(processes or 1, "scaled_sgd.train", arguments)


def _doctor(arguments: list[str]) -> int:
    """Examine in this process or in several local ones; plan without starting any."""
    if any(argument == "--plan" or argument.startswith("--plan.") for argument in arguments):
        from scaled_sgd.planning.doctor.plan import main as plan

        return plan(arguments)
    from scaled_sgd.planning.doctor.command import main as doctor
    from scaled_sgd.planning.doctor.command import options

    try:
        processes = options(arguments).processes
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_STATUS
    if processes in (None, 1) or launcher.is_launched():
        return doctor(arguments)
    return _start_processes(processes, "scaled_sgd.planning.doctor", arguments)


def _launch_files(arguments: Sequence[str]) -> int:
    """Copy what a clone has beside the package."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(_LAUNCH_FILES, end="")
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("error: launch-files: allowed: one folder", file=sys.stderr)
        return USAGE_STATUS
    try:
        copied = copy_shipped(Path(arguments[0]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_STATUS
    print(f"{len(copied)} files in {escaped(arguments[0])}: configs/ and launch/")
    return 0


def _start_processes(count: int, module: str, arguments: list[str]) -> int:
    """The exit status of the first process that failed, without the launcher's trace; 0 if none failed."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The agent has set a level of its own, at which it tells of every signal.
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    if not hangs_up():
        # torch's launcher would end at a SIGHUP that nohup has made its command ignore.
        os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGQUIT")
    launcher.is_starter()
    launch = LaunchConfig(
        run_id=uuid.uuid4().hex,
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(launch, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            print(
                f"error: launch: process {rank} was ended by {name}, and the others with it", file=sys.stderr
            )
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
