"""``scaled-sgd line``: draws the loss of a stored network along a line through its weights."""

import argparse
import csv
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.text import escaped
from scaled_sgd.runs.own_files import run_folder
from scaled_sgd.study.ending import Parser, run_command

_ENDS = (".svg", ".png", ".pdf")
_DESCRIPTION = """Draw the loss of a stored network on the run's probe along a line θ + t u through its
weights, with the cubic of its Taylor coefficients. One process, on the CPU, in float64: about three times the
weights' bytes in float64, and a forward pass with two products a layer for each point."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    return run_command("line", arguments, _draw)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="scaled-sgd line", allow_abbrev=False, description=_DESCRIPTION)
    add = parser.add_argument
    add("run", metavar="RUN", help="run directory or checkpoint")
    add(
        "--along",
        required=True,
        metavar="WHAT",
        help="eigenvector: of the Hessian on the probe; gradient: −∇L there, t is a learning rate; the path "
        "of another run or checkpoint, which is at t = 1; or eigenvectors/step-N of a run",
    )
    add("--step", type=int, metavar="N", help="of the run's checkpoint; the newest")
    add("--index", type=int, default=1, metavar="I", help="which eigenvector, from 1, the largest")
    add("--samples", metavar="N", help="training samples, or all; as many as the run's probe")
    add("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="of t; what shows the curvature")
    add("--points", type=int, default=41, metavar="N", help="values of t")
    add("--out", metavar="FILE", help=f"ends in {', '.join(_ENDS)}; numbers go beside it as .csv")
    # argparse takes -1e-3 for an option; after a space it is a value.
    found = parser.parse_args([f" {a}" if _is_negative(a) else a for a in arguments])
    if found.out is None:
        found.out = f"{Path(found.run).absolute().name}-line.svg"
    if not found.out.endswith(_ENDS):
        raise UserError(f"--out: {found.out!r} is not usable; allowed: names that end in {', '.join(_ENDS)}")
    for name, least in (("index", 1), ("points", 2)):
        if getattr(found, name) < least:
            raise UserError(f"--{name}: {getattr(found, name)} is not usable; allowed: integers from {least}")
    if found.samples is not None and found.samples != "all":
        if not found.samples.isdecimal() or found.samples.strip("0") == "":
            raise UserError(f"--samples: {found.samples!r} does not fit; allowed: integers from 1, all")
        found.samples = int(found.samples)
    if found.range is not None:
        low, high = found.range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"--range: {low:g} {high:g} is not usable; allowed: two numbers in order")
    run_folder(found.run)
    return found


def _is_negative(argument: str) -> bool:
    try:
        return float(argument) < 0
    except ValueError:
        return False


def _draw(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    from tqdm.auto import tqdm

    from scaled_sgd.diagnostics.line import losses_along
    from scaled_sgd.runs.records import replace_file
    from scaled_sgd.steps.minibatch import Minibatch
    from scaled_sgd.study.line.along import find_line
    from scaled_sgd.study.line.figure import draw
    from scaled_sgd.train.probed import open_probed

    run = open_probed(options.run, step=options.step, samples=options.samples)
    batch = Minibatch(run.network, run.x, run.y, loss=run.loss)
    line = find_line(run, batch, options.along, index=options.index)
    low, high = line.ends if options.range is None else options.range
    at = [low + (high - low) * i / (options.points - 1) for i in range(options.points)]
    found = losses_along(batch, lambda k: line.rows[k - 1] * batch.partition.multiplier(k), at)
    shown = tqdm(found, total=len(at), unit="point", disable=not sys.stderr.isatty(), leave=False)
    losses = [float(loss) for loss in shown]
    if not any(map(math.isfinite, losses)):
        raise UserError(f"--range: no finite loss from {low:g} to {high:g}; allowed: a smaller range")
    out = Path(options.out)
    table = out.with_suffix(".csv")
    replace_file(out, lambda path: draw(path, out.suffix[1:], line, at, losses))
    rows = zip(at, losses, [float(line.terms.predicted_loss(t)) for t in at], strict=True)
    replace_file(table, lambda path: _write(path, rows))
    lowest = min(range(len(at)), key=lambda i: (not math.isfinite(losses[i]), losses[i]))
    terms = ", ".join(f"c{p} = {float(getattr(line.terms, f'c{p}')):.5g}" for p in range(4))
    print(f"step {run.checkpoint.step}, {len(run.x):,} samples, along {escaped(line.words)}: {terms}")
    print(f"lowest loss {losses[lowest]:.5g} at t = {at[lowest]:.4g} ({line.axis})")
    print(f"{escaped(str(out))}, {escaped(str(table))}")
    return 0


def _write(path: Path, rows: Iterable[tuple[float, float, float]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["t", "loss", "cubic"])
        table.writerows(rows)
