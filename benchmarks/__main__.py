"""``python -m benchmarks [NAME …] [--json FOLDER]``: the CPU set, small enough for five minutes."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

SMALL = {
    "step_time": ["--widths", "1024", "2048", "--batches", "256", "--rounds", "9"],
    "scaling_overhead": ["--widths", "1024", "2048", "--rounds", "9"],
    "factor_exchange": ["--rows", "16", "64", "--rounds", "7"],
    "directions": ["--shapes", "64,8,64", "32,6,256", "--muon"],
    "methods": ["--shapes", "8,8,128", "--rounds", "5"],
    "data": [],
    "study_throughput": ["--runs", "16"],
}
"""Each benchmark at laptop size; ``python -m benchmarks.NAME --help`` shows the full size."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named benchmarks, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SMALL))
    parser.add_argument("--json", metavar="FOLDER", type=Path, help="write NAME.json of each there")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in SMALL:
            parser.error(f"{name!r} is unknown; allowed: {', '.join(SMALL)}")
    if options.json is not None:
        options.json.mkdir(parents=True, exist_ok=True)
    for name in options.names or SMALL:
        record = [] if options.json is None else ["--json", str(options.json / f"{name}.json")]
        import_module(f"benchmarks.{name}").main([*SMALL[name], *record])
    return 0


if __name__ == "__main__":
    sys.exit(main())
