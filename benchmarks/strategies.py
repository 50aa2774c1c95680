"""Memory and traffic of each ``sharding.strategy`` on this machine, measured and predicted.

    python -m benchmarks.strategies [--strategies ddp fsdp2 …] [--processes 1 2 4] [--json FILE]

Memory is the largest resident size of any process during steps (VmHWM) minus that of the same process after
it has trained a tiny network and before it makes the real one, so that the libraries' own memory is not
counted. Traffic is what the processes' connections sent (TCP_INFO), per step and process.

Each number is printed beside the prediction of :mod:`scaled_sgd.planning` and their ratio. Ten seconds per
line. Times on one machine say nothing about a cluster.
"""

import argparse
import importlib.util
import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks.harness import write_json
from benchmarks.measuring import ENVIRONMENT, Work, run
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning import nominal, rows

MIB = 2**20
PLANNED = [
    f"{name}+fused" if fused else name for name, fused in rows(replace(nominal("cpu"), ranks=4), parts=2)
]


def line(strategy: str, work: Work) -> dict[str, Any]:
    """Figures of one strategy per process: largest memory, mean traffic."""
    measured = run([strategy], work)[strategy]
    planned = work.planned(strategy, measured.exchange)
    return {
        "strategy": strategy,
        "processes": work.processes,
        "start_mib": measured.start / MIB,
        "held_planned_mib": planned.held_bytes / MIB,
        "peak_mib": measured.peak / MIB,
        "peak_planned_mib": planned.peak_bytes / MIB,
        "sent_mib": measured.sent / MIB,
        "sent_planned_mib": planned.traffic.sent / MIB,
        "seconds": measured.seconds,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; write JSON if asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.strategies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    default = [
        name for name in PLANNED if has_deepspeed or not STRATEGIES[name.removesuffix("+fused")].zero_stage
    ]
    parser.add_argument("--strategies", nargs="+", choices=PLANNED, default=default)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--base-width", type=int, default=64)
    parser.add_argument("--width-exponent", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--option", action="append", default=[], help="of a run: --option=--run.seed=1")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    os.environ |= ENVIRONMENT
    keys = (
        f"--model.depth={options.depth}",
        f"--model.base_width={options.base_width}",
        f"--model.width_exponent={options.width_exponent}",
        f"--optim.batch_size={options.batch}",
        "--optim.momentum=0.9",
        *options.option,
    )
    workload = Work(keys, 1).workload(options.strategies[0])
    print(
        f"{' × '.join(map(str, workload.widths))}, "
        f"{workload.weights * workload.itemsize / MIB:.1f} MiB of weights, batch {workload.batch}\n\n"
        "MiB of a process:\n"
        f"{'strategy':<13}{'processes':>9}{'start':>8}{'held':>8}{'peak':>8}{'planned':>8}{'ratio':>7}"
        f"{'sent':>8}{'planned':>8}{'ratio':>7}{'ms a step':>11}"
    )
    results = []
    for strategy, processes in itertools.product(options.strategies, options.processes):
        found = line(strategy, Work(keys, processes, options.steps))
        results.append(found)
        print(
            f"{strategy:<13}{processes:>9}{found['start_mib']:>8.1f}{found['held_planned_mib']:>8.1f}"
            f"{found['peak_mib']:>8.1f}{found['peak_planned_mib']:>8.1f}{_ratio(found, 'peak'):>7.3f}"
            f"{found['sent_mib']:>8.2f}{found['sent_planned_mib']:>8.2f}{_ratio(found, 'sent'):>7.3f}"
            f"{1000 * found['seconds']:>11.0f}",
            flush=True,
        )
    write_json(options.json, {"load": asdict(workload), "results": results})
    return 0


def _ratio(found: dict[str, Any], what: str) -> float:
    """Predicted over measured; 1 where nothing is sent."""
    planned, measured = found[f"{what}_planned_mib"], found[f"{what}_mib"]
    return planned / measured if planned else 1.0


if __name__ == "__main__":
    sys.exit(main())
