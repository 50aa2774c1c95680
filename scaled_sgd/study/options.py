"""The command line of ``scaled-sgd study``."""

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.text import escaped, is_folder_name

_OPTIONS = (
    "--help", "--dir", "--name", "--workers", "--batched", "--dry-run", "--executor", "--jobs", "--at-once",
    "--minutes", "--slurm", "--share",
)  # fmt: skip
"""Options of ``study run``; all others are keys of the study."""

ACCEPT = "run.accept_code"
"""The key, and option, that names the code of a study's folder which may run."""

_ABOUT = "Width-scaling studies: grids of runs from a YAML file, their tables, figures and report."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"study: {message}; allowed: scaled-sgd study --help tells")


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``scaled-sgd study``."""
    parser = _Parser(prog="scaled-sgd study", description=_ABOUT, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    commands.add_parser(
        "list", help="studies that come with the package or are in configs/studies", allow_abbrev=False
    )
    run = commands.add_parser(
        "run",
        help="run what is pending of a study",
        allow_abbrev=False,
        description="Any key of a run's configuration may follow, such as --model.base_width '[8, 16, 32]' "
        "or --optim.steps 1000: one that the study varies gets these values, another this one value. The "
        "name of an axis of choices takes those kept, such as --method '[A, B]'. Runs that have ended are "
        "never repeated; the same command resumes a stopped study.",
    )
    _add_study(run)
    run.add_argument("--workers", type=int, help="processes for small runs; one a core, or one a GPU")
    run.add_argument(
        "--batched", choices=["auto", "yes", "no"], default="auto",
        help="train small runs of one shape as one computation; auto: on a GPU, where measured to be faster",
    )  # fmt: skip
    run.add_argument("--dry-run", action="store_true", help="say what would be run")
    run.add_argument("--executor", choices=["local", "slurm"], help="submit jobs through submitit")
    run.add_argument("--jobs", type=int, default=1, help="how many jobs share the runs (1)")
    run.add_argument("--at-once", type=int, help="how many of them run at the same time")
    run.add_argument("--minutes", type=int, default=60, help="of a job before it is queued again (60)")
    run.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE",
        help="for Slurm, such as partition=gpu, gpus_per_node=1, cpus_per_task=8, mem=32GB",
    )  # fmt: skip
    run.add_argument("--share", help=argparse.SUPPRESS)
    for name, words in (
        ("status", "how far the runs of a study are"),
        ("collect", "write runs.parquet and metrics.parquet"),
        ("report", "write report.html, figures and tables"),
    ):
        command = commands.add_parser(name, help=words, allow_abbrev=False)
        _add_study(command)
        if name == "report":
            command.add_argument(
                f"--{ACCEPT}", dest="accepted", default="[]", metavar="NAMES",
                help="plugins that the study's folder names and that may be loaded, such as '[my_rules]'",
            )  # fmt: skip
    return parser


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="NAME", help="one that study list tells, or a path")
    parser.add_argument("--dir", default="studies", metavar="FOLDER", help="of all studies (studies)")
    parser.add_argument("--name", help="of the study's folder; its file's name")


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split options of the command from ``--key value`` or ``--key=value`` for keys of the study, in YAML.

    Raises:
        UserError: a key has no value or two values.
    """
    own: list[str] = []
    found: dict[str, Any] = {}
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if not option.startswith("--") or option in _OPTIONS:
            own.append(argument)
            continue
        key = option.removeprefix("--")
        close = get_close_matches(option, _OPTIONS, n=1, cutoff=0.8)
        if close and "." not in key:
            raise UserError(f"{key}: unknown option; did you mean {close[0]}?")
        given = value if equals else next(rest, None)
        if given is None:
            raise UserError(f"{key}: no value given; allowed: a value or a list such as [4, 8]")
        if key in found:
            raise UserError(f"{key}: it is given twice; allowed: once, a list for several values")
        try:
            found[key] = yaml.safe_load(given)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError(
                f"{key}: {given!r} is not YAML; allowed: a value or a list such as [4, 8]"
            ) from None
    return own, found


def checked_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Parameters of Slurm, by name.

    Raises:
        UserError: a parameter is not ``KEY=VALUE``, a number of ``study run`` is out of range, or an option
            of jobs is given without an executor.
    """
    for name in ("workers", "jobs", "at_once", "minutes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{_spelt(name)}: {value} is not usable; allowed: integers from 1")
    parameters: dict[str, Any] = {}
    for pair in options.slurm:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"slurm: {pair!r} is not usable; allowed: KEY=VALUE, such as partition=gpu")
        if escaped(value) != value:
            raise UserError(f"slurm: {pair!r} is not usable; allowed: a value without control characters")
        parameters[key] = int(value) if value.isdecimal() else value
        if key == "nodes" and value != "1":
            raise UserError(
                "slurm: 'nodes' is not usable: a run of a study takes one machine; allowed: more jobs, or "
                "sbatch --nodes N launch/slurm.sbatch for one run on several machines"
            )
    for name, default in (("jobs", 1), ("at_once", None), ("minutes", 60), ("slurm", [])):
        if options.executor is None and getattr(options, name) != default:
            raise UserError(f"{_spelt(name)}: it is for jobs; allowed: with --executor local or slurm")
    return parameters


def folder_name(options: argparse.Namespace, path: Path) -> str:
    """Name of a study's folder: ``--name``, or that of its file.

    Raises:
        UserError: it is not the name of one folder.
    """
    name = options.name if options.name is not None else path.stem
    if not is_folder_name(name):
        raise UserError(
            f"name: {name!r} is not usable; allowed: the name of a folder, without / and control characters"
        )
    return str(name)


def _spelt(name: str) -> str:
    return name.replace("_", "-")
