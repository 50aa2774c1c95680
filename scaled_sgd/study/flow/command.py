"""``scaled-sgd flow RUN``: follow a run's gradient descent, gradient flow and central flow."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.text import escaped
from scaled_sgd.runs.own_files import run_folder
from scaled_sgd.study.ending import Parser, run_command

_DESCRIPTION = """\
Gradient descent on all training samples, its gradient flow and its central flow (arXiv 2410.24206) from the
weights of a run: a row a step of losses and largest eigenvalues, and a figure. In float64, for up to 100,000
weights and smooth activations (relu and abs have no third derivatives at their kinks)."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    return run_command("flow", arguments, _flow, interrupted="the rows so far are kept")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="scaled-sgd flow", allow_abbrev=False, description=_DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--step", type=_natural, metavar="N", help="checkpoint; 0: initial weights; default: last"
    )
    parser.add_argument("--length", type=_positive, default=200, metavar="N", help="steps to follow (200)")
    parser.add_argument("--lr", type=_rate, metavar="η", help="default: that of a run of plain SGD")
    parser.add_argument("--samples", type=_positive, metavar="N", help="training samples; default: all")
    parser.add_argument("--eigenvalues", type=_positive, default=3, metavar="N", help="to measure (3)")
    parser.add_argument(
        "--substeps", type=_positive, default=4, metavar="N", help="of the flows per step (4)"
    )
    parser.add_argument("--out", metavar="FOLDER", help="default: the run's name and -flow")
    found = parser.parse_args(arguments)
    run_folder(found.run)
    return found


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from 0")
    return int(text)


def _positive(text: str) -> int:
    if _natural(text) == 0:
        raise argparse.ArgumentTypeError("0 is no integer from 1")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number above 0")
    return rate


def _flow(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    # Imported here, so that --help needs neither torch nor matplotlib.
    from scaled_sgd.diagnostics.flow.follow import follow
    from scaled_sgd.study.flow.picture import draw_paths
    from scaled_sgd.study.flow.problem import flow_problem
    from scaled_sgd.train.progress import Progress

    run = Path(options.run)
    problem = flow_problem(run, step=options.step, samples=options.samples)
    lr = options.lr or problem.lr
    if lr is None:
        raise UserError(
            "--lr: the steps of the run are not −η∇L with a given η; allowed: a rate of gradient descent"
        )
    if not problem.network.activation.curved:
        print("flow: derivatives of a piecewise linear activation are those of its pieces", file=sys.stderr)
    out = Path(options.out or f"{run.absolute().name}-flow")
    out.mkdir(parents=True, exist_ok=True)
    landscapes = (problem.landscape(), problem.landscape(), problem.landscape())
    rows: list[dict[str, Any]] = []
    try:
        with Progress(options.length) as progress, (out / "flow.jsonl").open("w", encoding="utf-8") as file:
            for row in follow(
                landscapes,
                landscapes[0].weights,
                lr=lr,
                length=options.length,
                count=options.eigenvalues,
                substeps=options.substeps,
            ):
                rows.append(row)
                file.write(json.dumps({"lr": lr} | row) + "\n")
                file.flush()
                losses = {name: row[name]["loss"] for name in ("descent", "gradient_flow", "central_flow")}
                progress.show(row["step"], losses)
                progress.after_step(row["step"])
    finally:
        if rows:
            draw_paths(rows, lr, out / "flow.png")
            print(f"{escaped(str(out))}: flow.jsonl ({len(rows)} rows), flow.png")
    return 0
