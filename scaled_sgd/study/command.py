"""``scaled-sgd study``: list, run, status, collect, report."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaled_sgd.core.errors import INTERRUPTED_STATUS, TERMINATED_STATUS, USAGE_STATUS, UserError
from scaled_sgd.core.text import printable
from scaled_sgd.runs.own_files import reason
from scaled_sgd.study.execution.run import run_study
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.grid import read_study
from scaled_sgd.study.options import checked_parameters, folder_name, make_parser, split_overrides


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0; 2 for a mistake; 4 if runs failed; 130 or 143 if stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    before: Any = None
    # In a job, submitit handles the signals.
    if "--share" not in arguments and threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _terminate)
    try:
        parser = make_parser()
        overrides: dict[str, Any] = {}
        own = arguments
        if arguments[:1] == ["run"]:
            own, overrides = split_overrides(arguments)
        options = parser.parse_args(own)
        return _ACTIONS[options.command](options, overrides)
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return USAGE_STATUS
    except OSError as error:
        if debug:
            raise
        line = f"error: study: {reason(error)}; allowed: files and folders that can be read and written"
        print(printable(line), file=sys.stderr)
        return USAGE_STATUS
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("scaled_sgd"):
            raise
        print(
            f"error: study: {error.name} is not installed; allowed: pip install 'scaled-sgd[study]'",
            file=sys.stderr,
        )
        return USAGE_STATUS
    except KeyboardInterrupt as interrupt:
        print("interrupted: the same command goes on where it was", file=sys.stderr)
        return TERMINATED_STATUS if isinstance(interrupt, _Terminated) else INTERRUPTED_STATUS
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


def _terminate(_number: int, _frame: object) -> None:
    raise _Terminated


def _folder(options: argparse.Namespace) -> StudyFolder:
    """The folder of a planned study, by name or path."""
    by_path = Path(options.study)
    if (by_path / "plan.jsonl").is_file():
        return StudyFolder(by_path)
    name = folder_name(options, Path(options.study))
    folder = StudyFolder(Path(options.dir) / name)
    if not (folder.path / "plan.jsonl").is_file():
        raise UserError(
            f"study: {str(folder.path)!r} has no plan; allowed: a study that was run "
            f"(scaled-sgd study run {name})"
        )
    return folder


def _list(_options: argparse.Namespace, _overrides: Mapping[str, Any]) -> int:
    paths = sorted(Path("configs/studies").glob("*.yaml"))
    for path in paths:
        try:
            study = read_study(path)
        except UserError as error:
            print(f"warning: {path}: {error}", file=sys.stderr)
            continue
        print(f"{study.name:<18} {study.size:>6} runs  {study.title}")
    if not paths:
        print("no studies in configs/studies")
    return 0


def _run(options: argparse.Namespace, overrides: Mapping[str, Any]) -> int:
    return run_study(options, overrides, checked_parameters(options), command=main)


def _status(options: argparse.Namespace, _overrides: Mapping[str, Any]) -> int:
    from scaled_sgd.study.execution.status import describe

    print(describe(_folder(options)))
    return 0


def _collect(options: argparse.Namespace, _overrides: Mapping[str, Any]) -> int:
    from scaled_sgd.study.tables.collect import collect

    folder = _folder(options)
    collected = collect(folder.path)
    for warning in collected.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{collected.describe()}; {folder.path / 'runs.parquet'}, {folder.path / 'metrics.parquet'}")
    return 0


def _report(options: argparse.Namespace, _overrides: Mapping[str, Any]) -> int:
    from scaled_sgd.study.page.report import write_report

    print(printable(str(write_report(_folder(options).path))))
    return 0


_ACTIONS: dict[str, Callable[[argparse.Namespace, Mapping[str, Any]], int]] = {
    "list": _list,
    "run": _run,
    "status": _status,
    "collect": _collect,
    "report": _report,
}
