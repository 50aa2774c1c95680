"""``scaled-sgd study``: list, run, status, collect, report."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaled_sgd.config.options import option_value
from scaled_sgd.config.parsing import read_key
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.text import escaped
from scaled_sgd.parallel.endings import stopped_by_signals
from scaled_sgd.study.ending import run_command
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.grid.study_file import find_study, named_studies, own_code, read_study
from scaled_sgd.study.options import ACCEPT, checked_parameters, folder_name, make_parser, split_overrides

_RESUMES = "the same command resumes it"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0; 2 for a mistake; 4 if runs failed; 129, 130
    or 143 if stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # In a job, submitit handles the signals.
    is_job = "--share" in arguments
    with contextlib.nullcontext() if is_job else stopped_by_signals(_RESUMES):
        return run_command("study", arguments, _act, interrupted=_RESUMES)


def _act(arguments: list[str]) -> int:
    overrides: dict[str, Any] = {}
    own = arguments
    if arguments[:1] == ["run"]:
        own, overrides = split_overrides(arguments)
    options = make_parser().parse_args(own)
    return _ACTIONS[options.command](options, overrides)


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
    for name, path in named_studies().items():
        try:
            study = read_study(path)
        except UserError as error:
            print(f"warning: {path}: {error}", file=sys.stderr)
            continue
        print(f"{name:<21} {study.size:>6} runs  {study.title}")
    return 0


def _run(options: argparse.Namespace, overrides: Mapping[str, Any]) -> int:
    parameters = checked_parameters(options)
    path = find_study(options.study)
    keys = {key: value for key, value in overrides.items() if key != ACCEPT}
    study = read_study(path, keys, accepted=read_key(ACCEPT, overrides.get(ACCEPT, [])))
    # Late, since it imports torch: mistakes in the study are told before.
    from scaled_sgd.study.execution.run import run_study

    return run_study(options, study, path, parameters, command=main)


def _status(options: argparse.Namespace, _overrides: Mapping[str, Any]) -> int:
    from scaled_sgd.study.execution.status import describe

    print(describe(_folder(options)))
    return 0


def _collect(options: argparse.Namespace, _overrides: Mapping[str, Any]) -> int:
    folder = _folder(options)
    from scaled_sgd.study.tables.collect import collect

    collected = collect(folder.path)
    for warning in collected.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{collected.describe()}; {folder.path / 'runs.parquet'}, {folder.path / 'metrics.parquet'}")
    return 0


def _report(options: argparse.Namespace, _overrides: Mapping[str, Any]) -> int:
    folder = _folder(options)
    accepted = read_key(ACCEPT, option_value(ACCEPT, options.accepted)[ACCEPT])
    from scaled_sgd.study.page.report import write_report

    page = write_report(folder.path, accepted=[*accepted, *own_code(options.study)])
    print(escaped(str(page)))
    return 0


_ACTIONS: dict[str, Callable[[argparse.Namespace, Mapping[str, Any]], int]] = {
    "list": _list,
    "run": _run,
    "status": _status,
    "collect": _collect,
    "report": _report,
}
