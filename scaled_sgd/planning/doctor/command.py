"""The doctor's command line."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from scaled_sgd.core.errors import USAGE_STATUS, UserError
from scaled_sgd.parallel.launcher import rank

_OTHER_WORLD_STATUS = 1
_SECONDS_TO_SPEAK = 10.0
"""Seconds that other ranks wait for rank 0 to print; the launcher ends all ranks when one exits."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; allowed: --processes N, --run.dir FOLDER, --json")


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """``processes``, ``dir`` and ``json`` from a command line.

    Raises:
        UserError: any mistake.
    """
    parser = _Parser(
        prog="scaled-sgd doctor",
        allow_abbrev=False,
        description="Say what this machine and this launch can do. Exit status: 0; 1 when the processes that "
        "run are not those that were asked for; 2 for a mistake. What a network would take on a cluster: "
        "scaled-sgd doctor --plan --help.",
    )
    parser.add_argument(
        "--processes",
        metavar="N",
        type=int,
        help="how many should run; scaled-sgd doctor starts them, another launcher is checked",
    )
    parser.add_argument("--run.dir", dest="dir", metavar="FOLDER", default="runs", help="of all runs (runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    found = parser.parse_args(arguments)
    if found.processes is not None and found.processes < 1:
        raise UserError(f"processes: {found.processes} is not usable; allowed: integers from 1")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine and print on the first rank; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    first = rank() == 0
    if not first and any(argument in ("-h", "--help") for argument in arguments):
        return 0
    try:
        asked = options(arguments)
        # Late, since they import torch.
        from scaled_sgd.planning.doctor.launch import join, leave
        from scaled_sgd.planning.doctor.machine import disk, machine
        from scaled_sgd.planning.doctor.network import network
        from scaled_sgd.planning.doctor.report import Report
        from scaled_sgd.planning.doctor.strategies import strategies

        links = network()
        report = Report(machine(), links, strategies(), join(asked.processes), disk(asked.dir))
    except UserError as error:
        if first:
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(_SECONDS_TO_SPEAK)
        return USAGE_STATUS
    if first:
        print(report.json() if asked.json else report.text(), flush=True)
    elif report.problems:
        time.sleep(_SECONDS_TO_SPEAK)
    leave()
    return _OTHER_WORLD_STATUS if report.problems else 0
